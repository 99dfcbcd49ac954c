"""When topology updates and measurements happen: Lightning callbacks."""

from lightning_sparse.callbacks.class_specialization import ClassSpecializationCallback
from lightning_sparse.callbacks.gradient_flow import GradientFlowCallback
from lightning_sparse.callbacks.gradient_records import GradientFlowRecord
from lightning_sparse.callbacks.history import UpdateRecord
from lightning_sparse.callbacks.pictures import SparsityPictures
from lightning_sparse.callbacks.random_state import RandomStateCallback
from lightning_sparse.callbacks.sparse_momentum import SparseMomentumCallback
from lightning_sparse.callbacks.sparse_training import SparseTrainingCallback

__all__ = [
    "ClassSpecializationCallback",
    "GradientFlowCallback",
    "GradientFlowRecord",
    "RandomStateCallback",
    "SparseMomentumCallback",
    "SparseTrainingCallback",
    "SparsityPictures",
    "UpdateRecord",
]
