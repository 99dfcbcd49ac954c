"""`python -m lightning_sparse` is `lightning-sparse`."""

from lightning_sparse.cli import main

main()
