"""Search over the densities of layers (SNAS): spaces, samplers and successive halving."""
