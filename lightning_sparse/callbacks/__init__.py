"""When topology updates and measurements happen: Lightning callbacks."""

from lightning_sparse.callbacks.class_specialization.callback import ClassSpecializationCallback
from lightning_sparse.callbacks.gradient_flow.callback import GradientFlowCallback
from lightning_sparse.callbacks.gradient_flow.records import GradientFlowRecord
from lightning_sparse.callbacks.probing.figure_logging import send_figure
from lightning_sparse.callbacks.probing.random_state import RandomStateCallback
from lightning_sparse.callbacks.sparse_training.callback import SparseTrainingCallback
from lightning_sparse.callbacks.sparse_training.figures import SparsityPictures
from lightning_sparse.callbacks.sparse_training.sparse_momentum import SparseMomentumCallback
from lightning_sparse.methods.history import UpdateRecord

__all__ = [
    "ClassSpecializationCallback",
    "GradientFlowCallback",
    "GradientFlowRecord",
    "RandomStateCallback",
    "SparseMomentumCallback",
    "SparseTrainingCallback",
    "SparsityPictures",
    "UpdateRecord",
    "send_figure",
]
