"""How many weights each layer loses and gains in one update: integers in, integers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real

from lightning_sparse.topology.select import apportion
from lightning_sparse.validation.errors import InvalidValueError


@dataclass(frozen=True)
class LayerChange:
    """What one update does to one layer, in weights.

    Attributes:
        name: Name of the weight.
        size: Number of weights, active or not.
        before: Active weights before the update.
        pruned: Active weights that lose their value.
        grown: Inactive weights that become active, with value zero.
        share: Fraction in [0, 1] of all regrown weights that the layer's claim stands for.
    """

    name: str
    size: int
    before: int
    pruned: int
    grown: int
    share: float

    @property
    def active(self) -> int:
        """Active weights after the update."""
        return self.before - self.pruned + self.grown


@dataclass(frozen=True)
class LayerEvidence:
    """What the counts of one layer depend on.

    Attributes:
        name: Name of the weight.
        size: Number of weights, active or not.
        active: Number of active weights.
        claim: The layer's claim on regrown weights, finite and >= 0; None if every layer regrows what it lost.
        loss: Number of active weights that it loses; None if the prune rate tells.
    """

    name: str
    size: int
    active: int
    claim: float | None
    loss: int | None = None


def plan_changes(
    layers: Sequence[LayerEvidence], prune_rate: float, min_active: int = 1, *, grows: bool = True
) -> tuple[LayerChange, ...]:
    """Return how many weights each layer loses and gains; as many are grown as are pruned, exactly, or none at all.

    A layer prunes `round(prune_rate * active)` weights. What all layers lost is apportioned by their claims: a layer
    takes at most its inactive and just-pruned positions, and the excess goes in equal parts to the layers with room.
    A layer that would grow although its sparsity is below the prune rate prunes at most the fraction of its sparsity
    (Dettmers & Zettlemoyer 2019, Algorithm 1 and the two edge cases of section 3.2). A claim of exactly zero says
    nothing, as that of a layer without any gradient: such a layer is left as it is, and where all are zero, each layer
    regrows what it lost. A network without inactive weights has no topology to change, nor has such a layer where each
    layer regrows what it lost.

    Args:
        layers: The evidence; claims for all layers or for none.
        prune_rate: Fraction in [0, 1] of each layer's active weights.
        min_active: Minimum number of active weights per layer; of a layer that has fewer, the number it has.
        grows: Whether weights are grown. If not, each layer loses what it is to lose, but keeps the minimum.

    Raises:
        ValueError: If the prune rate is out of range.
    """
    if isinstance(prune_rate, bool) or not isinstance(prune_rate, Real) or not 0 <= prune_rate <= 1:
        raise InvalidValueError(
            expected="a prune rate in [0, 1], a fraction of the active weights",
            got=repr(prune_rate),
            cure="0.5, say",
        )
    losses = [round(prune_rate * layer.active) if layer.loss is None else layer.loss for layer in layers]
    if not grows:
        return _plan_removal(layers, losses, min_active)
    inactive = [layer.size - layer.active for layer in layers]
    pruned = losses if any(inactive) else [0] * len(layers)
    claims = [layer.claim or 0.0 for layer in layers]
    if not any(claims):
        # A full layer that keeps its count could only lose the values of weights that come straight back.
        pruned = [lost if room else 0 for room, lost in zip(inactive, pruned, strict=True)]
        grown, claims = pruned, [float(lost) for lost in pruned]
    else:
        pruned = [lost if claim else 0 for lost, claim in zip(pruned, claims, strict=True)]
        total, whole = sum(pruned), sum(map(Fraction, claims))
        # A layer whose claim exceeds its loss prunes at most its sparsity: min(rate, sparsity) of its weights.
        pruned = [
            min(lost, layer.active * free // layer.size) if total * Fraction(claim) > lost * whole else lost
            for layer, free, lost, claim in zip(layers, inactive, pruned, claims, strict=True)
        ]
        # What layers without a claim would get of the excess, the others have room for: it is what they lost.
        room = [free + lost if claim else 0 for free, lost, claim in zip(inactive, pruned, claims, strict=True)]
        # What each layer needs to keep the minimum, or what it has if that is less.
        least = [
            max(0, min(min_active, layer.active) - layer.active + lost)
            for layer, lost in zip(layers, pruned, strict=True)
        ]
        grown = apportion(sum(pruned), claims, room, least)
    all_claims = sum(claims) or 1.0
    return tuple(
        LayerChange(layer.name, layer.size, layer.active, lost, gained, claim / all_claims)
        for layer, lost, gained, claim in zip(layers, pruned, grown, claims, strict=True)
    )


def _plan_removal(layers: Sequence[LayerEvidence], losses: Sequence[int], min_active: int) -> tuple[LayerChange, ...]:
    return tuple(
        LayerChange(layer.name, layer.size, layer.active, min(loss, max(0, layer.active - min_active)), 0, 0.0)
        for layer, loss in zip(layers, losses, strict=True)
    )
