"""Gradients as they were before a step, of optimizers that change them in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


class OverwritingOptimizer(Protocol):
    """What is known of the optimizer of a step."""

    names: tuple[str, ...]
    overwrites: bool | None

    def optimizer(self) -> Optimizer | None:
        """Return the optimizer itself, if it is still alive."""


class GradientKeeper:
    """Copies of gradients for the duration of a step, of optimizers that overwrite them.

    Some optimizers clip, scale, decay, centralize or orthogonalize gradients in place. What decides by gradients needs
    them as they were. The first step of every optimizer tells: others cost no copy from the second on.

    Args:
        parameters: The observed parameters by name.

    Attributes:
        is_needed: Whether someone asks for gradients after steps.
        found: Gradients of the present step by name, with the version of each, which tells whether it was overwritten.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = parameters
        self.is_needed = False
        self._copies: dict[str, Tensor] = {}
        self.found: dict[str, tuple[Tensor, int]] = {}

    def note(self, stepping: OverwritingOptimizer) -> None:
        """Take note of the gradients that an optimizer is about to use, and copy them unless it leaves them alone."""
        if getattr(stepping.optimizer(), "grad_scale", None) is not None:
            return  # a fused step divides them by the scale of a gradient scaler, and is right to
        gradients = {name: self._parameters[name].grad for name in stepping.names}
        self.found |= {name: (each, each._version) for name, each in gradients.items() if each is not None}
        if stepping.overwrites is not False:
            self._copies |= {name: each.detach().clone() for name, each in gradients.items() if each is not None}

    def get(self, name: str) -> Tensor | None:
        """Return the copy of a gradient that was changed since; None for one that wasn't, or was not copied."""
        copy = self._copies.get(name)
        return copy if copy is not None and self._has_changed(name) else None

    def _has_changed(self, name: str) -> bool:
        gradient, version = self.found[name]
        return self._parameters[name].grad is not gradient or gradient._version != version

    def end(self, stepping: OverwritingOptimizer) -> None:
        """Find out whether a step that has ended has changed gradients, and forget the copies."""
        changed = any(self._has_changed(name) for name in stepping.names if name in self.found)
        stepping.overwrites = changed or bool(stepping.overwrites)
        for name in stepping.names:
            self.found.pop(name, None)
            self._copies.pop(name, None)
