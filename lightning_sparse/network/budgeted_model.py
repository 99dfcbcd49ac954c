"""A masked model with the numbers of its active weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_sparse.network.budget import LayerDensity
from lightning_sparse.network.coverage import Coverage, count_weights
from lightning_sparse.network.masked_model import MaskedModel
from lightning_sparse.selection.weight import Weight


class BudgetedModel(MaskedModel):
    """Masks of a model's weights, and how many of each are active.

    Args:
        model: Any module.
        weights: The maskable weights by name.
        choice: Patterns that chose them, see `MaskedModel`.
        active: Number of active weights by name.
    """

    def __init__(
        self, model: nn.Module, weights: Mapping[str, Weight], choice: dict[str, Any], active: Mapping[str, int]
    ) -> None:
        super().__init__(model, weights, choice)
        self._active = dict(active)

    @property
    def layers(self) -> dict[str, LayerDensity]:
        """Sizes and active counts by parameter name, in the order of the model."""
        return {
            name: LayerDensity(
                tuple(parameter.shape), parameter.numel(), self._active[name], dense=name not in self._masks.names
            )
            for name, parameter in self._parameters.items()
        }

    @property
    def layer_densities(self) -> dict[str, float]:
        """Active fraction of each maskable weight, in [0, 1], by parameter name."""
        return {name: self._active[name] / parameter.numel() for name, parameter in self._parameters.items()}

    @property
    def density(self) -> float:
        """Active fraction of all maskable weights, in (0, 1]; see `overall_density` for that of the whole model."""
        return sum(self._active.values()) / sum(parameter.numel() for parameter in self._parameters.values())

    @property
    def coverage(self) -> Coverage:
        """Numbers of active and of all trainable weights in parameters with two or more dimensions, maskable or not."""
        return count_weights(self.model, self._parameters, self._active)

    @property
    def overall_density(self) -> float:
        """Active fraction of all trainable weights in parameters with two or more dimensions, in (0, 1].

        Layers that can't be masked (embeddings) or are not (LSTMs, unless included) count as dense, tied weights once.
        """
        return self.coverage.density
