"""The active weights of a parameter, packed and unpacked."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from lightning_sparse.execution.chains.chain import Pass
from lightning_sparse.execution.kernels import sizes_of

Plan = TypeVar("Plan")

# Sizes of maps that a weight remembers plans for.
MOST_PLANS = 8


class MaskedWeight(Generic[Plan]):
    """A parameter whose inactive weights are zero, and the plans that were made of its mask.

    Args:
        parameter: The parameter, float32 on the CPU.
        mask: Function that returns the present mask, bool, of the parameter's shape.
        version: Function that returns a number which tells whether the mask has changed.
    """

    def __init__(
        self, parameter: nn.Parameter, mask: Callable[[], Tensor], version: Callable[[], int] = lambda: 0
    ) -> None:
        self.parameter, self._mask, self._version = parameter, mask, version
        self._plans: dict[Hashable, Plan] = {}
        self._planned = -1

    def plan(self, key: Hashable, make: Callable[[Tensor], Plan]) -> Plan:
        """Return the plan of the present mask.

        Args:
            key: Whatever else the plan depends on, such as the size of maps.
            make: Function that makes it of the mask.
        """
        if (version := self._version()) != self._planned:
            self._plans, self._planned = {}, version
        if key not in self._plans:
            if len(self._plans) == MOST_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = make(self._mask())
        return self._plans[key]

    def values(self, order: Tensor, batch: Pass) -> Tensor:
        """Return the weights at places of the flat parameter, shape of `order`.

        Args:
            order: Places, int32.
            batch: The pass.
        """
        return gathered(self.parameter.detach().contiguous(), order, batch)

    def gradient(self, values: Tensor, order: Tensor, batch: Pass) -> Tensor:
        """Return a gradient of the parameter's shape that is zero but at the given places.

        Args:
            values: Gradients there.
            order: Places in the flat parameter, int32.
            batch: The pass.
        """
        gradient = torch.zeros(self.parameter.shape)
        batch.run("scatter", values, order, gradient, sizes=sizes_of(len(order)))
        return gradient


def gathered(values: Tensor, order: Tensor, batch: Pass) -> Tensor:
    """Return values in another order: those at the given places.

    Args:
        values: Values, contiguous.
        order: Places among them, int32.
        batch: The pass.
    """
    found = torch.empty(len(order))
    batch.run("gather", values, order, found, sizes=sizes_of(len(order)))
    return found
