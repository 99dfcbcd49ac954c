"""One training among several, as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.network.budget import Density
from lightning_sparse.topology.packing import pack_mask, unpack_mask
from lightning_sparse.validation.representation import ShowsFields


@dataclass(frozen=True, repr=False, eq=False)
class Round(ShowsFields):
    """One training of a sparse network, with masks that don't change.

    Attributes:
        index: Number of the round, from 0 on.
        density: Fraction in (0, 1] of the maskable weights that was asked for, or one per layer pattern.
        active: Number of active weights.
        first_step: Number of optimizer steps that its first weights have behind them, from which a schedule of the
            learning rate should start: 0 in the first round, after that the step that is rewound to.
        packed_masks: Masks of whole weights at one bit per weight by parameter name.
        shapes: Shapes of the weights by parameter name.
        result: Value that the training function returned; None before that. After a resume also None if it was neither
            a tensor nor a plain value (number, string, None, or lists, tuples and dictionaries of these).
    """

    index: int
    density: Density
    active: int
    first_step: int
    packed_masks: Mapping[str, Tensor] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    result: Any = None

    @classmethod
    def of(cls, index: int, density: Density, first_step: int, masks: Mapping[str, Tensor]) -> Round:
        """Return the record of a round that begins.

        Args:
            index: Number of the round.
            density: Density that was asked for.
            first_step: Number of optimizer steps that its first weights have behind them.
            masks: Masks of whole weights by parameter name, bool.
        """
        return cls(
            index,
            density,
            sum(int(torch.count_nonzero(mask)) for mask in masks.values()),
            first_step,
            {name: pack_mask(mask.cpu()) for name, mask in masks.items()},
            {name: tuple(mask.shape) for name, mask in masks.items()},
        )

    @property
    def masks(self) -> dict[str, Tensor]:
        """Masks by parameter name: bool, of the weight's shape, on the CPU, True = active; of dense layers, too."""
        return {name: unpack_mask(packed, self.shapes[name]) for name, packed in self.packed_masks.items()}
