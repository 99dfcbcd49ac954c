"""Methods that are more than the rules of an update, and densities and updates over a run, for any training loop."""

from lightning_sparse.methods.base import Method, Phase, Progress
from lightning_sparse.methods.density_schedule import DensitySchedule
from lightning_sparse.methods.driver import MethodDriver
from lightning_sparse.methods.sparse_training import SparseTraining

__all__ = ["DensitySchedule", "Method", "MethodDriver", "Phase", "Progress", "SparseTraining"]
