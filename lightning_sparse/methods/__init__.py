"""Methods that are more than the rules of an update, and densities and updates over a run, for any training loop."""

from lightning_sparse.methods.at_initialization.snip import Snip
from lightning_sparse.methods.base import Method, Phase, Progress
from lightning_sparse.methods.dense_to_sparse.l0_regularization import L0Regularization
from lightning_sparse.methods.density_schedule import DensitySchedule
from lightning_sparse.methods.driver import MethodDriver
from lightning_sparse.methods.registry import METHODS
from lightning_sparse.methods.sparse_training import SparseTraining
from lightning_sparse.methods.throughout.deep_rewiring import DeepRewiring
from lightning_sparse.methods.throughout.rigl import RigL
from lightning_sparse.methods.throughout.top_kast import TopKast

__all__ = [
    "METHODS",
    "DeepRewiring",
    "DensitySchedule",
    "L0Regularization",
    "Method",
    "MethodDriver",
    "Phase",
    "Progress",
    "RigL",
    "Snip",
    "SparseTraining",
    "TopKast",
]
