"""The paper's tables and figures, measured again."""

from lightning_sparse.reproduction.command import reproduce

__all__ = ["reproduce"]
