"""Layers that run one after the other in the kernels' own layouts, forward and backward."""

from lightning_sparse.execution.chains.chain import Chain, Node, Step
from lightning_sparse.execution.chains.convolutions import Convolve
from lightning_sparse.execution.chains.features import EnterFeatures, LeaveFeatures, Multiply
from lightning_sparse.execution.chains.maps import AverageMaps, EnterMaps, FlattenMaps, LeaveMaps
from lightning_sparse.execution.chains.masked_weight import MaskedWeight
from lightning_sparse.execution.chains.normalization import Activate, Normalize

__all__ = [
    "Activate",
    "AverageMaps",
    "Chain",
    "Convolve",
    "EnterFeatures",
    "EnterMaps",
    "FlattenMaps",
    "LeaveFeatures",
    "LeaveMaps",
    "MaskedWeight",
    "Multiply",
    "Node",
    "Normalize",
    "Step",
]
