"""The command line."""

from lightning_sparse.cli.entry_point import main

__all__ = ["main"]
