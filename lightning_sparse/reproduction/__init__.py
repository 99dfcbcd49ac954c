"""Reproduction of the tables and figures of published papers."""

from lightning_sparse.reproduction.command import reproduce

__all__ = ["reproduce"]
