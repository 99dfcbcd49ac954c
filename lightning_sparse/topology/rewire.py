"""One topology update: prune, apportion, grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

from lightning_sparse.topology.layer import (
    LayerClaim,
    LayerView,
    NonFiniteError,
    WeightScore,
    is_shardable,
    signals_of,
    unchanged,
)
from lightning_sparse.topology.measure import Extremes, check_signals, fetch_extremes, measure_layers
from lightning_sparse.topology.plan import LayerChange, plan_changes
from lightning_sparse.topology.registry import takes_one_argument
from lightning_sparse.topology.select import top_k_mask
from lightning_sparse.validation.deprecation import renamed_argument
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

_Mask = TypeVar("_Mask")


@dataclass(frozen=True)
class Recipe:
    """A published method: what to keep, how to share the freed budget out, what to grow.

    Attributes:
        prune: Weight score; of each layer's active weights the lowest are pruned. None prunes nothing.
        redistribute: Layer claim; None regrows in each layer what it lost.
        grow: Weight score; of each layer's inactive weights, just-pruned ones included, the highest are grown.
        keep_regrown: Whether a weight that is pruned and grown in the same update keeps its value (RigL, and the
            original authors' code of sparse momentum) or starts at zero like every grown weight (the default, and
            the text of the sparse momentum paper).
    """

    prune: WeightScore | None
    redistribute: LayerClaim | None
    grow: WeightScore | None
    keep_regrown: bool = False

    def __post_init__(self) -> None:
        if (self.prune is None) != (self.grow is None):
            raise InvalidValueError(
                expected="both a pruning and a growth rule, or neither (a fixed topology)",
                got=f"prune={self.prune!r}, grow={self.grow!r}",
                cure="name the missing rule",
            )
        for name in ("prune", "redistribute", "grow"):
            rule = getattr(self, name)
            if rule is not None and not takes_one_argument(rule):
                raise InvalidTypeError(
                    expected=f"a function of one LayerView, or None, as {name}",
                    got=repr(rule),
                    cure="pass the function itself; a callback's arguments take names",
                )
        if not isinstance(self.keep_regrown, (bool, np.bool_)):
            raise InvalidTypeError(
                expected="keep_regrown to be True or False",
                got=repr(self.keep_regrown),
                cure="the default is False",
            )

    @property
    def signals(self) -> frozenset[str]:
        """The signals that the rules of this recipe may ask for."""
        return signals_of(self.prune) | signals_of(self.redistribute) | signals_of(self.grow)

    @property
    def shardable(self) -> bool:
        """Whether its rules work on parts of weights that are split over processes."""
        return not self.unshardable

    @property
    def unshardable(self) -> tuple[WeightScore | LayerClaim, ...]:
        """The rules that don't."""
        rules = (self.prune, self.redistribute, self.grow)
        return tuple(rule for rule in rules if rule is not None and not is_shardable(rule))


@dataclass(frozen=True)
class Rewiring(Generic[_Mask]):
    """The outcome of one update, by layer name.

    Attributes:
        survivors: Which weights keep their value: active before and not pruned (or pruned and regrown at once, if the
            recipe keeps those).
        masks: Which weights are active now: the survivors, and the grown ones, which start at zero.
        changes: The counts, in the order of the layers.
    """

    survivors: dict[str, _Mask]
    masks: dict[str, _Mask]
    changes: tuple[LayerChange, ...]


def rewire(
    layers: Sequence[LayerView],
    recipe: Recipe,
    prune_rate: float,
    *,
    min_active: int = 1,
    minimum: int | None = None,
) -> Rewiring[Tensor]:
    """Return the masks after one topology update; nothing that comes in is changed.

    The number of active weights is conserved exactly; `plan_changes` has the counts, measured before pruning
    (Dettmers & Zettlemoyer 2019, Algorithm 1).

    Of a layer that is split over processes (`LayerView.shard`), survivors and mask are those of this process's part;
    joined they are those of the whole layer, and the changes count the whole. Every process raises the same errors.

    Args:
        layers: One view per masked weight. A sequence that builds its views on access keeps the memory of an update
            at a few tensors of the largest layer: each view is used and dropped.
        recipe: The three rules.
        prune_rate: Fraction in [0, 1] of each layer's active weights to prune.
        min_active: Minimum number of active weights per layer; of a layer that has fewer, the number it has.
        minimum: Old name of `min_active`, for one more version.

    Raises:
        ValueError: If the prune rate is out of range or a rule returns something unusable.
        ShardingError: If a layer is split over processes and a rule doesn't work on parts.
        MissingSignalError: If a layer lacks a signal that a rule requires.
        NonFiniteError: If a weight, or a signal that a rule depends on, is NaN or infinite.
    """
    min_active = renamed_argument("minimum", minimum, "min_active", min_active, default=1)
    return rewire_into(layers, recipe, prune_rate, store=lambda mask: mask, min_active=min_active)


def rewire_into(
    layers: Sequence[LayerView],
    recipe: Recipe,
    prune_rate: float,
    *,
    store: Callable[[Tensor], _Mask],
    min_active: int = 1,
) -> Rewiring[_Mask]:
    """Do what `rewire` does, but pass each mask through `store` as soon as it is made (to pack it, for instance).

    All device synchronization is in two places, whatever the number of layers: counts and claims are fetched once
    before pruning, the extremes of the scores once after growing. Layers that are split over processes add to that:
    their rules' reductions, and the rounds of their selections.
    """
    evidence = measure_layers(layers, recipe.redistribute, recipe.unshardable)
    changes = plan_changes(evidence, prune_rate if recipe.prune else 0.0, min_active)
    survivors, masks = {}, {}
    ranges: list[tuple[int, Extremes]] = []
    for index, change in enumerate(changes):
        # No name is bound to a layer or its masks here: they would live on while the next layer is built.
        survivors[change.name], masks[change.name], found = _rewire_layer(layers[index], recipe, change, store)
        ranges.extend((index, each) for each in found)
    for (index, _), (lowest, highest) in zip(ranges, fetch_extremes([each for _, each in ranges]), strict=True):
        if not (isfinite(lowest) and isfinite(highest)):
            check_signals(layers[index])
        if isnan(lowest) or isnan(highest):
            name = changes[index].name
            raise NonFiniteError(
                expected=f"scores without NaN for layer {name!r}",
                got="NaN from a rule",
                cure="mend the rule, which may divide zero by zero",
            )
    return Rewiring(survivors, masks, changes)


def _rewire_layer(
    layer: LayerView, recipe: Recipe, change: LayerChange, store: Callable[[Tensor], _Mask]
) -> tuple[_Mask, _Mask, list[Extremes]]:
    """Return survivors, new mask, and the extremes of the scores (on the device: looking would synchronize)."""
    ranges = []
    kept = mask = layer.mask
    if recipe.prune and change.pruned:
        scores = _scores(recipe.prune, layer)
        ranges.append(Extremes.from_scores(scores, layer.shard))
        kept = mask = top_k_mask(scores, change.before - change.pruned, layer.mask, layer.shard)
    if recipe.grow and change.grown:
        scores = _scores(recipe.grow, layer)
        ranges.append(Extremes.from_scores(scores, layer.shard))
        mask = kept | top_k_mask(scores, change.grown, ~kept, layer.shard)
    if recipe.keep_regrown:
        kept = mask & layer.mask
    return store(kept), store(mask), ranges


def _scores(rule: WeightScore, layer: LayerView) -> Tensor:
    with unchanged(layer, rule):
        scores = rule(layer)
    weight = layer.weight
    usable = isinstance(scores, Tensor) and scores.shape == weight.shape and scores.device == weight.device
    if usable and not scores.is_complex():
        return scores.detach()
    raise InvalidValueError(
        expected=f"one score per weight of layer {layer.name!r}, shape {tuple(weight.shape)}",
        got=f"{_brief(scores)} from {rule!r}",
        cure="return real numbers, of the weight's shape and on its device",
    )


def _brief(value: object) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}, {value.dtype}, on {value.device}"
    return "None" if value is None else f"a {type(value).__name__}"
