"""One topology update: prune, apportion, grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

from lightning_sparse.topology.layer import (
    LayerClaim,
    LayerView,
    WeightScore,
    is_shardable,
    signals_of,
)
from lightning_sparse.topology.measure import ScoreRange, check_scores, measure_layers, scores_of
from lightning_sparse.topology.plan import LayerChange, plan_changes
from lightning_sparse.topology.reduction import extremes
from lightning_sparse.topology.registry import takes_one_argument
from lightning_sparse.topology.select import top_k_mask
from lightning_sparse.validation.deprecation import renamed_argument
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.representation import ShowsFields

_Mask = TypeVar("_Mask")


@dataclass(frozen=True, repr=False)
class Recipe(ShowsFields):
    """A published method: what to keep, how to share the freed budget out, what to grow.

    Attributes:
        prune: Weight score; of each layer's active weights the lowest are pruned. None prunes nothing.
        redistribute: Layer claim; None regrows in each layer what it lost.
        grow: Weight score; of each layer's inactive weights, just-pruned ones included, the highest are grown.
        keep_regrown: Whether a weight that is pruned and grown in the same update keeps its value (RigL, and the
            original authors' code of sparse momentum) or starts at zero like every grown weight (the default, and
            the text of the sparse momentum paper).
        signals: Names of the signals that the rules may ask for.
        unshardable: Rules that don't work on parts of weights that are split over processes.
    """

    prune: WeightScore | None
    redistribute: LayerClaim | None
    grow: WeightScore | None
    keep_regrown: bool = False
    signals: frozenset[str] = field(init=False, repr=False, compare=False)
    unshardable: tuple[WeightScore | LayerClaim, ...] = field(init=False, repr=False, compare=False)

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

        rules = [rule for rule in (self.prune, self.redistribute, self.grow) if rule is not None]
        # A frozen dataclass.
        object.__setattr__(self, "signals", frozenset().union(*map(signals_of, rules)))
        object.__setattr__(self, "unshardable", tuple(rule for rule in rules if not is_shardable(rule)))

    @property
    def shardable(self) -> bool:
        """Whether its rules work on parts of weights that are split over processes."""
        return not self.unshardable


@dataclass(frozen=True, repr=False)
class Rewiring(ShowsFields, Generic[_Mask]):
    """The outcome of one update, by layer name.

    Attributes:
        survivors: Masks of the weights that keep their value: active before and not pruned (or pruned and
            regrown at once, if the recipe keeps those).
        masks: Masks of the weights that are active now: the survivors, and the grown ones, which start at zero.
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
    views = [partial(layers.__getitem__, index) for index in range(len(layers))]
    return rewire_into(views, recipe, prune_rate, store=lambda mask: mask, min_active=min_active)


def rewire_into(
    layers: Sequence[Callable[[], LayerView]],
    recipe: Recipe,
    prune_rate: float,
    *,
    store: Callable[[Tensor], _Mask],
    min_active: int = 1,
) -> Rewiring[_Mask]:
    """Do what `rewire` does, but build each view when it is needed, and pass each mask through `store` at once.

    The memory of an update is then a few tensors of the largest layer, and what `store` returns (packed masks, say).
    All device synchronization is in two places, whatever the number of layers: counts and claims are fetched once
    before pruning, the extremes of the scores once after growing. Layers that are split over processes add to that:
    their rules' reductions, and the rounds of their selections.
    """
    evidence = measure_layers(layers, recipe.redistribute, recipe.unshardable)
    changes = plan_changes(evidence, prune_rate if recipe.prune else 0.0, min_active)
    survivors, masks = {}, {}
    ranges: list[tuple[Callable[[], LayerView], ScoreRange]] = []
    for view, change in zip(layers, changes, strict=True):
        # No name is bound to a layer or its masks here: they would live on while the next layer is built.
        survivors[change.name], masks[change.name], of_layer = _rewire_layer(view(), recipe, change, store)
        ranges += [(view, scores) for scores in of_layer]
    check_scores(ranges)
    return Rewiring(survivors, masks, changes)


def _rewire_layer(
    layer: LayerView, recipe: Recipe, change: LayerChange, store: Callable[[Tensor], _Mask]
) -> tuple[_Mask, _Mask, list[ScoreRange]]:
    """Return survivors, new mask, and the ranges of the scores."""
    ranges = []
    survivors = mask = layer.mask
    if recipe.prune and change.pruned:
        scores = scores_of(recipe.prune, layer)
        ranges.append(ScoreRange(layer.shard, extremes(scores)))
        survivors = mask = top_k_mask(scores, change.before - change.pruned, layer.mask, layer.shard)
    if recipe.grow and change.grown:
        scores = scores_of(recipe.grow, layer)
        ranges.append(ScoreRange(layer.shard, extremes(scores)))
        mask = survivors | top_k_mask(scores, change.grown, ~survivors, layer.shard)
    if recipe.keep_regrown:
        survivors = mask & layer.mask
    return store(survivors), store(mask), ranges
