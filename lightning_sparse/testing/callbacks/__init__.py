"""The contract of sparse-training callbacks."""
