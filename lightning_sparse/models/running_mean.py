"""A mean that is cheap enough to be updated at every training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_sparse.validation.errors import InvalidStateError


class RunningMean:
    """The weighted mean of scalar tensors: one in-place addition per value, and no wait for a device.

    >>> mean = RunningMean()
    >>> mean.add(torch.tensor(1.0), weight=3)
    >>> mean.add(torch.tensor(5.0), weight=1)
    >>> float(mean.compute())
    2.0
    """

    def __init__(self) -> None:
        self.weight = 0
        self._start = 0.0
        self._total: Tensor | None = None  # on the device of the values, which is known with the first one

    def add(self, value: Tensor, weight: int) -> None:
        """Counts in a value.

        Args:
            value: Scalar without gradient.
            weight: How many times it counts, >= 1.
        """
        if self._total is None:
            self._total = torch.full((), self._start, device=value.device)
        self._total.add_(value, alpha=weight)
        self.weight += weight

    def compute(self) -> Tensor:
        """The mean, float32.

        Raises:
            RuntimeError: If nothing was added.
        """
        if self.weight == 0:
            raise InvalidStateError(
                expected="at least one value",
                got="none",
                cure="call add() first",
            )
        return torch.tensor(self._start / self.weight) if self._total is None else self._total / self.weight

    def reset(self) -> None:
        """Forgets all values."""
        self.weight, self._start, self._total = 0, 0.0, None

    def state_dict(self) -> dict[str, Any]:
        """The sums as plain numbers."""
        return {"total": self._start if self._total is None else self._total.item(), "weight": self.weight}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts back what `state_dict` returned."""
        self.weight, self._start, self._total = state_dict["weight"], state_dict["total"], None
