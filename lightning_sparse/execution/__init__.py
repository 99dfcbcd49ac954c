"""Ordinary modules run by something else; their parameters, names and checkpoints stay as they are."""

from lightning_sparse.execution.computed_weights import ComputedWeights, with_weight
from lightning_sparse.execution.forward_replacement import ReplacedForward, replace_forward, replaced_forward

__all__ = ["ComputedWeights", "ReplacedForward", "replace_forward", "replaced_forward", "with_weight"]
