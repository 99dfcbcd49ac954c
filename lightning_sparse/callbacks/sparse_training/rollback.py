"""Restoring the state before a fit that fails before its first step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Rollback:
    """State of a callback before a fit, with copies of the weights that the fit will mask.

    The copies of the weights live until the first step only: before there are gradients, so that they don't raise the
    most memory that a run needs.

    Args:
        owner: The callback, of which attributes are kept, not what they refer to.
    """

    def __init__(self, owner: object) -> None:
        self._owner, self._attributes = owner, dict(vars(owner))
        self._weights: list[tuple[Tensor, Tensor]] = []

    def keep(self, weights: Iterable[Tensor]) -> None:
        """Copy weights, before any of them is zeroed."""
        self._weights = [(weight, weight.detach().clone()) for weight in weights]

    @torch.no_grad()
    def undo(self) -> None:
        """Restore attributes and weights."""
        for weight, copy in self._weights:
            weight.copy_(copy)
        vars(self._owner).update(self._attributes)
