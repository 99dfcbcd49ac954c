"""Which parts of a network run by chains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

# One round of each is not counted: it makes plans and buffers.
_ROUNDS = 3


class Choice(Protocol):
    """Decides whether a part runs by its chain."""

    def takes(
        self, name: str, dense: Callable[..., Any], chain: Callable[..., Any], inputs: Sequence[Tensor], parts: Parts
    ) -> bool:
        """Tell whether a part runs by its chain.

        Args:
            name: Name of the part, of its mode and of the size of its inputs.
            dense: Function of the inputs that runs it as PyTorch does.
            chain: The chain.
            inputs: Its inputs.
            parts: Its parameters and buffers.
        """


@dataclass(frozen=True)
class Parts:
    """What a part computes with.

    Attributes:
        parameters: Its parameters.
        buffers: Its buffers, which a forward pass in training changes.
    """

    parameters: tuple[nn.Parameter, ...]
    buffers: tuple[Tensor, ...]

    @classmethod
    def of(cls, modules: Sequence[nn.Module]) -> Parts:
        """Return the parameters and buffers of modules."""
        parameters = [each for module in modules for each in module.parameters()]
        return cls(tuple(parameters), tuple(each for module in modules for each in module.buffers()))


class AllOfThem:
    """Runs every part by its chain: results don't depend on how fast a machine was for a moment."""

    def takes(
        self, name: str, dense: Callable[..., Any], chain: Callable[..., Any], inputs: Sequence[Tensor], parts: Parts
    ) -> bool:
        """Tell that it does."""
        return True


@dataclass(frozen=True)
class Timing:
    """Seconds that a part took, forward and, where gradients are computed, backward.

    Attributes:
        dense: Seconds as PyTorch runs it.
        sparse: Seconds by its chain.
    """

    dense: float
    sparse: float

    @property
    def is_sparse(self) -> bool:
        """Whether the chain was faster."""
        return self.sparse < self.dense


class TheFaster:
    """Runs each part as was faster when it was run for the first time: by its chain, or as PyTorch does.

    Args:
        known: Earlier choices by the names of the parts: of the run that is resumed.

    Attributes:
        timings: Seconds of each part that was timed.
        chosen: Whether each part runs by its chain.
    """

    def __init__(self, known: dict[str, bool] | None = None) -> None:
        self.timings: dict[str, Timing] = {}
        self.chosen: dict[str, bool] = dict(known or {})

    def takes(
        self, name: str, dense: Callable[..., Any], chain: Callable[..., Any], inputs: Sequence[Tensor], parts: Parts
    ) -> bool:
        """Tell whether its chain was faster, after a timing at the first time."""
        if name not in self.chosen:
            if any(each._backward_hooks for each in parts.parameters):  # which would be called
                return True
            self.timings[name] = timed(dense, chain, inputs, parts)
            self.chosen[name] = self.timings[name].is_sparse
        return self.chosen[name]


def timed(dense: Callable[..., Any], chain: Callable[..., Any], inputs: Sequence[Tensor], parts: Parts) -> Timing:
    """Return the median seconds of two ways to run a part, in turns; nothing that it computes with is changed.

    Args:
        dense: One function of the inputs.
        chain: The other.
        inputs: The inputs.
        parts: Parameters and buffers of both.
    """
    learns = torch.is_grad_enabled()
    copies = [each.detach().requires_grad_(learns and each.requires_grad) for each in inputs]
    wanted = [each for each in (*copies, *parts.parameters) if learns and each.requires_grad]
    seconds: dict[Callable[..., Any], list[float]] = {dense: [], chain: []}
    with _unchanged(parts.buffers):
        for _ in range(_ROUNDS + 1):
            for run, times in seconds.items():
                began = perf_counter()
                output = run(*copies)
                if wanted:
                    torch.autograd.grad(output, wanted, torch.ones_like(output), allow_unused=True)
                times.append(perf_counter() - began)
    return Timing(median(seconds[dense][1:]), median(seconds[chain][1:]))


@contextmanager
def _unchanged(buffers: Sequence[Tensor]) -> Any:
    before = [each.clone() for each in buffers]
    try:
        yield
    finally:
        for each, values in zip(buffers, before, strict=True):
            each.data.copy_(values)  # uncounted: an earlier forward pass may keep them for its backward pass
