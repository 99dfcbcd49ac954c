"""Layers that run one after the other in the kernels' own layouts, forward and backward."""

from lightning_sparse.execution.chains.chain import Chain, Node, Step
from lightning_sparse.execution.chains.features import EnterFeatures, LeaveFeatures, Multiply
from lightning_sparse.execution.chains.masked_weight import MaskedWeight

__all__ = ["Chain", "EnterFeatures", "LeaveFeatures", "MaskedWeight", "Multiply", "Node", "Step"]
