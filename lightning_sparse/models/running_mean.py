"""A weighted running mean, cheap enough to update at every training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_sparse.validation.errors import InvalidStateError


class RunningMean:
    """Weighted mean of scalar tensors: one in-place addition per value, without synchronizing with the device.

    >>> mean = RunningMean()
    >>> mean.add(torch.tensor(1.0), weight=3)
    >>> mean.add(torch.tensor(5.0), weight=1)
    >>> float(mean.compute())
    2.0
    """

    def __init__(self) -> None:
        self.weight = 0
        self._restored_total = 0.0
        self._total: Tensor | None = None  # on the device of the first value

    def add(self, value: Tensor, weight: int) -> None:
        """Add a value.

        Args:
            value: Scalar without gradient.
            weight: Weight of the value, >= 1; images in the batch, for instance.
        """
        if self._total is None:
            self._total = torch.full((), self._restored_total, device=value.device)
        self._total.add_(value, alpha=weight)
        self.weight += weight

    def compute(self) -> Tensor:
        """Return the mean, float32.

        Raises:
            RuntimeError: If no value was added.
        """
        if self.weight == 0:
            raise InvalidStateError(
                expected="at least one value",
                got="none",
                cure="call add() first",
            )
        return torch.tensor(self._restored_total / self.weight) if self._total is None else self._total / self.weight

    def reset(self) -> None:
        """Drop all values."""
        self.weight, self._restored_total, self._total = 0, 0.0, None

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as plain numbers."""
        return {"total": self._restored_total if self._total is None else self._total.item(), "weight": self.weight}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the sums that `state_dict` returned."""
        self.weight, self._restored_total, self._total = state_dict["weight"], state_dict["total"], None
