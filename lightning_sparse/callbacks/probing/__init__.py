"""What measurements share: forward passes and gradients that don't change the run, and figures for any logger."""
