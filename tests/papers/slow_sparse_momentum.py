"""One sparse-momentum topology update, slow and obvious: loops over single weights, exact fractions for shares.

Written from Dettmers & Zettlemoyer 2019, section 3.2, and from the project's definition of what the paper leaves open
(rounding, ties, what an overflow means exactly), not from the package. Nothing of the package is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import floor

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Noise = Callable[[tuple[int, ...]], Array]


@dataclass(frozen=True)
class Layer:
    """One weight and what is known about it; all arrays have its shape.

    Attributes:
        weight: Values, zero where inactive.
        mask: Whether a weight is active.
        momentum: Exponentially smoothed gradient.
        gradient: Gradient of the last step.
    """

    weight: Array
    mask: NDArray[np.bool_]
    momentum: Array
    gradient: Array

    @property
    def active(self) -> list[int]:
        """Indices of the active weights."""
        return [i for i in range(self.mask.size) if self.mask.flat[i]]

    @property
    def zeros(self) -> int:
        """Number of inactive weights."""
        return int(self.mask.size) - len(self.active)


@dataclass(frozen=True)
class Outcome:
    """One layer after the update.

    Attributes:
        mask: Whether a weight is active.
        weight: Values; grown weights are zero.
        pruned: How many weights lost their value.
        grown: How many became active.
    """

    mask: NDArray[np.bool_]
    weight: Array
    pruned: int
    grown: int


def update(
    layers: Sequence[Layer],
    prune_rate: float,
    prune: str = "magnitude",
    redistribute: str = "momentum",
    grow: str = "momentum",
    min_active: int = 1,
    noise: Noise | None = None,
    keep_regrown: bool = False,
) -> list[Outcome]:
    """Return every layer after one update.

    Random growth asks `noise` once for each layer that grows, in order. With `keep_regrown` a weight that is pruned and
    grown again keeps its value, else it starts at zero as every other grown weight does.
    """
    claims = [claim(layer) for layer in layers]  # (a), measured before anything is pruned
    pruned, grown = counts(
        layers, claims if redistribute == "momentum" else [0.0] * len(layers), prune_rate, min_active
    )
    return [
        _rewire(layer, lost, gained, prune, grow, noise, keep_regrown)
        for layer, lost, gained in zip(layers, pruned, grown, strict=True)
    ]


def claim(layer: Layer) -> float:
    """Return the mean |momentum| of the active weights: an exact sum, divided once in double precision."""
    if not layer.active:
        return 0.0
    return float(sum(Fraction(abs(float(layer.momentum.flat[i]))) for i in layer.active)) / len(layer.active)


def counts(
    layers: Sequence[Layer], claims: Sequence[float], prune_rate: float, min_active: int
) -> tuple[list[int], list[int]]:
    """Return how many weights every layer loses and gains."""
    if all(layer.zeros == 0 for layer in layers):
        return [0] * len(layers), [0] * len(layers)
    pruned = [round(prune_rate * len(layer.active)) for layer in layers]
    if all(each == 0 for each in claims):
        # A full layer that regrows what it lost would only forget values.
        pruned = [0 if layer.zeros == 0 else lost for layer, lost in zip(layers, pruned, strict=True)]
        return pruned, list(pruned)
    # Not in the paper: a layer that claims nothing, as it has no gradient, stays as it is.
    pruned = [lost if each else 0 for lost, each in zip(pruned, claims, strict=True)]
    pruned = [
        _spare_if_growing(layer, lost, quota)
        for layer, lost, quota in zip(layers, pruned, _quotas(sum(pruned), claims), strict=True)
    ]
    lows = [_least_growth(layer, lost, min_active) for layer, lost in zip(layers, pruned, strict=True)]
    caps = [layer.zeros + lost if each else 0 for layer, lost, each in zip(layers, pruned, claims, strict=True)]
    total = sum(pruned)
    return pruned, largest_remainder(total, share_out(total, _quotas(total, claims), lows, caps))


def _quotas(total: int, claims: Sequence[float]) -> list[Fraction]:
    whole = sum(Fraction(each) for each in claims)
    return [total * Fraction(each) / whole for each in claims]


def _spare_if_growing(layer: Layer, lost: int, quota: Fraction) -> int:
    """Edge case 2: a layer that is to grow is pruned by the smaller of the prune rate and its sparsity."""
    if quota <= lost:
        return lost
    sparsity = Fraction(layer.zeros, layer.mask.size)
    return min(lost, floor(len(layer.active) * sparsity))


def _least_growth(layer: Layer, lost: int, min_active: int) -> int:
    survivors = len(layer.active) - lost
    return max(0, min(min_active, len(layer.active)) - survivors)


def share_out(total: int, quotas: Sequence[Fraction], lows: Sequence[int], caps: Sequence[int]) -> list[Fraction]:
    """Edge case 1: return `clamp(quota + t, low, cap)` for the one t with which they sum to the total.

    Finds t by trying all combinations of layers at their lower bound, in between and full.
    """
    for t in _candidates(total, quotas, lows, caps):
        amounts = [min(max(quota + t, low), cap) for quota, low, cap in zip(quotas, lows, caps, strict=True)]
        if sum(amounts) == total:
            return [Fraction(amount) for amount in amounts]
    raise AssertionError(f"{total} can't be shared out between {lows} and {caps}")


def _candidates(total: int, quotas: Sequence[Fraction], lows: Sequence[int], caps: Sequence[int]) -> Iterable[Fraction]:
    yield Fraction(0)
    for quota, low, cap in zip(quotas, lows, caps, strict=True):
        yield low - quota
        yield cap - quota
    for state in product(("between", "low", "full"), repeat=len(quotas)):
        between = [i for i, each in enumerate(state) if each == "between"]
        fixed = sum(
            {"low": low, "full": cap, "between": 0}[each] for each, low, cap in zip(state, lows, caps, strict=True)
        )
        if between:
            yield (total - fixed - sum(quotas[i] for i in between)) / len(between)


def largest_remainder(total: int, amounts: Sequence[Fraction]) -> list[int]:
    """Round down, then hand out what is missing by the largest remainder, ties to the lower index."""
    whole = [floor(amount) for amount in amounts]
    ranking = sorted(range(len(amounts)), key=lambda i: (-(amounts[i] - whole[i]), i))
    for i in ranking[: total - sum(whole)]:
        whole[i] += 1
    return whole


def _rewire(
    layer: Layer, lost: int, gained: int, prune: str, grow: str, noise: Noise | None, keep_regrown: bool
) -> Outcome:
    score = {"magnitude": magnitudes, "signed_magnitude": signed_ranks}[prune](layer)
    # (b) The lowest go first; among equal ones the higher index.
    survivors = set(sorted(layer.active, key=lambda i: (score[i], -i))[lost:])
    candidates = [i for i in range(layer.mask.size) if i not in survivors]
    # (c) The highest come first; among equal ones the lower index.
    wish = _growth_scores(layer, grow, noise) if gained else layer.momentum
    grown = sorted(candidates, key=lambda i: (-float(wish.flat[i]), i))[:gained]
    mask, weight = np.zeros_like(layer.mask), np.zeros_like(layer.weight)
    for i in survivors:
        mask.flat[i], weight.flat[i] = True, layer.weight.flat[i]
    for i in grown:
        mask.flat[i] = True
        if keep_regrown and i in layer.active:
            weight.flat[i] = layer.weight.flat[i]
    return Outcome(mask, weight, lost, gained)


def _growth_scores(layer: Layer, grow: str, noise: Noise | None) -> Array:
    if grow == "random":
        if noise is None:
            raise ValueError("random growth needs noise")
        return noise(layer.weight.shape)
    return np.abs(layer.momentum if grow == "momentum" else layer.gradient)


def magnitudes(layer: Layer) -> dict[int, float]:
    """Return |weight| of every active weight."""
    return {i: abs(float(layer.weight.flat[i])) for i in layer.active}


def signed_ranks(layer: Layer) -> dict[int, Fraction]:
    """Return every active weight's rank by magnitude within its sign, as a fraction of that sign (Mocanu et al. 2018).

    The smallest magnitude has rank 1; of equal magnitudes the lower index is worth more, as everywhere.
    """
    ranks = {i: Fraction(0) for i in layer.active}
    for sign in (1, -1):
        members = [i for i in layer.active if sign * layer.weight.flat[i] > 0]
        ordered = sorted(members, key=lambda i: (abs(float(layer.weight.flat[i])), -i))
        for position, i in enumerate(ordered):
            ranks[i] = Fraction(position + 1, len(members))
    return ranks
