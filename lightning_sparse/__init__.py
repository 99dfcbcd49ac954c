"""Train sparse neural networks from scratch in any PyTorch Lightning project."""

from lightning_sparse._version import __version__
from lightning_sparse.analysis import effective_gradient_flow
from lightning_sparse.callbacks import (
    GradientFlowCallback,
    SparseMomentumCallback,
    SparseTrainingCallback,
    SparsityPictures,
)
from lightning_sparse.network import SparseNetwork

__all__ = [
    "GradientFlowCallback",
    "SparseMomentumCallback",
    "SparseNetwork",
    "SparseTrainingCallback",
    "SparsityPictures",
    "__version__",
    "effective_gradient_flow",
]
