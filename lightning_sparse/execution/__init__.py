"""Ordinary modules run by something else; their parameters, names and checkpoints stay as they are."""

from lightning_sparse.execution.computed_weights import ComputedWeights, with_weight
from lightning_sparse.execution.dense_window import decay_rates, dense_steps
from lightning_sparse.execution.forward_replacement import ReplacedForward, replace_forward, replaced_forward
from lightning_sparse.execution.network_execution import NetworkExecution, execute

__all__ = [
    "ComputedWeights",
    "NetworkExecution",
    "ReplacedForward",
    "decay_rates",
    "dense_steps",
    "execute",
    "replace_forward",
    "replaced_forward",
    "with_weight",
]
