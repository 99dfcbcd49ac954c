"""Trainable gates, which tests put between a parameter and the forward that reads it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_sparse.execution import ReplacedForward, replace_forward, with_weight


class Gate:
    """Multiplies a weight by trainable numbers; it can be pickled."""

    def __init__(self, weight: Tensor) -> None:
        self.values = nn.Parameter(torch.rand(weight.shape) + 0.5)

    def __call__(self, weight: Tensor) -> Tensor:
        return weight * self.values


def gated(module: nn.Module, name: str = "weight") -> tuple[Gate, ReplacedForward]:
    """Replace the forward of a module by one with a gated parameter; return gate and handle."""
    gate = Gate(module.get_parameter(name))
    return gate, replace_forward(module, with_weight(gate, name))


def gate_of(module: nn.Module, handle: ReplacedForward | None, name: str = "weight") -> Gate:
    """Return the gate of a replaced module, or of its copy."""
    assert handle is not None
    assert handle.module is module
    gate = handle.run.computes[name]  # type: ignore[attr-defined]  # that of with_weight
    assert isinstance(gate, Gate)
    return gate
