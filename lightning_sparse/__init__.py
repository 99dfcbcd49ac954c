"""Train sparse neural networks from scratch in any PyTorch Lightning project."""

from lightning_sparse._version import __version__
from lightning_sparse.analysis import ClassSpecialization
from lightning_sparse.callbacks import ClassSpecializationCallback, SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.network import SparseNetwork

__all__ = [
    "ClassSpecialization",
    "ClassSpecializationCallback",
    "SparseMomentumCallback",
    "SparseNetwork",
    "SparseTrainingCallback",
    "__version__",
]
