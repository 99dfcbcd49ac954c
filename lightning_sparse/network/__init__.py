"""Masks bound to a model and its optimizers, for any PyTorch loop."""

from lightning_sparse.network.momentum_families import register_momentum
from lightning_sparse.network.sparse_network import SparseNetwork

__all__ = ["SparseNetwork", "register_momentum"]
