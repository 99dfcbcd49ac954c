"""What a sparse network starts from: the weights to mask, numbers of active ones, and masks that are taken over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_sparse.network.budget import DEFAULT_DENSITY, Density, initial_counts
from lightning_sparse.network.known_masks.given_masks import GivenMasks, counts_of_masks, given_masks
from lightning_sparse.network.known_masks.saved_masks import MaskSource
from lightning_sparse.selection.patterns import as_patterns
from lightning_sparse.selection.weight import Weight
from lightning_sparse.selection.weights import find_weights


@dataclass(frozen=True)
class StartingPoint:
    """The weights of a sparse network, before any of them is changed.

    Attributes:
        weights: The maskable weights by name.
        choice: Patterns that chose them: "include", "exclude" and, for those that stay dense, "dense".
        active: Number of active weights by name.
        masks: Masks that are taken over, bool, of whole weights; None if there are to be new ones.
    """

    weights: dict[str, Weight]
    choice: dict[str, Any]
    active: dict[str, int]
    masks: Mapping[str, Tensor] | None


def starting_point(
    model: nn.Module,
    masks: MaskSource | GivenMasks | None,
    choice: dict[str, Any],
    density: Density | None,
    distribution: str,
    min_active: int,
) -> StartingPoint:
    """Return what a network starts from, checked as a whole.

    Args:
        model: Any module whose parameters are initialized.
        masks: Masks to take over, or None.
        choice: Patterns "include", "exclude" and "dense".
        density: Density of the masks. None: that of masks to take over, or the default one.
        distribution: Distribution of the active weights of new masks over layers.
        min_active: Minimum number of active weights per layer.

    Raises:
        ValueError: If no weight can be masked, the density is out of reach, or masks don't fit.
    """
    dense = as_patterns(choice["dense"])
    if masks is None:
        weights = find_weights(model, choice["include"], choice["exclude"])
        density = DEFAULT_DENSITY if density is None else density
        return StartingPoint(weights, choice, initial_counts(weights, density, distribution, dense, min_active), None)
    given = given_masks(model, masks, **choice)
    counts = counts_of_masks(given, density, dense, min_active)
    return StartingPoint(given.weights, {**choice, "exclude": given.exclude}, counts, given.masks)
