"""Train sparse neural networks from scratch in any PyTorch Lightning project."""

from lightning_sparse._version import __version__
from lightning_sparse.callbacks import SparseMomentumCallback, SparseTrainingCallback, SparsityPictures
from lightning_sparse.network import SparseNetwork

__all__ = ["SparseMomentumCallback", "SparseNetwork", "SparseTrainingCallback", "SparsityPictures", "__version__"]
