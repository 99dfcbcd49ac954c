"""One topology update: prune, apportion, grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from torch import Tensor

from lightning_sparse.topology.layer import LayerView
from lightning_sparse.topology.measure import ScoreRange, check_scores, measure_layers, scores_of
from lightning_sparse.topology.plan import LayerChange, plan_changes
from lightning_sparse.topology.ranking import reseeded
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.reduction import extremes
from lightning_sparse.topology.select import top_k_mask
from lightning_sparse.topology.update_plan import plan_update
from lightning_sparse.validation.deprecation import renamed_argument
from lightning_sparse.validation.representation import ShowsFields

_Mask = TypeVar("_Mask")


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
    prune_rate: float = 0.0,
    *,
    budget: int | None = None,
    min_active: int = 1,
    minimum: int | None = None,
) -> Rewiring[Tensor]:
    """Return the masks after one topology update; nothing that comes in is changed.

    Without a budget, the number of active weights is conserved exactly if the recipe grows weights; `plan_changes` has
    the counts, measured before pruning (Dettmers & Zettlemoyer 2019, Algorithm 1). With one, exactly that number is
    active afterwards: `plan_update` has the counts.

    Of a layer that is split over processes (`LayerView.shard`), survivors and mask are those of this process's part;
    joined they are those of the whole layer, and the changes count the whole. Every process raises the same errors.

    Args:
        layers: One view per masked weight. A sequence that builds its views on access keeps the memory of an update
            at a few tensors of the largest layer: each view is used and dropped.
        recipe: The rules.
        prune_rate: Fraction in [0, 1] of each layer's active weights to prune (of those of all layers, if the recipe
            ranks them together); with a lower budget, of those that are left then.
        budget: Number of active weights of all layers afterwards. Default: as many as before if weights are grown, else
            what is left.
        min_active: Minimum number of active weights per layer; of a layer that has fewer, the number it has.
        minimum: Old name of `min_active`, for one more version.

    Raises:
        ValueError: If the prune rate or the budget is out of range or a rule returns something unusable.
        ShardingError: If a layer is split over processes and a rule doesn't work on parts.
        MissingSignalError: If a layer lacks a signal that a rule requires.
        NonFiniteError: If a weight, or a signal that a rule depends on, is NaN or infinite.
    """
    min_active = renamed_argument("minimum", minimum, "min_active", min_active, default=1)
    views = [partial(layers.__getitem__, index) for index in range(len(layers))]
    return rewire_into(views, recipe, prune_rate, store=lambda mask: mask, budget=budget, min_active=min_active)


def rewire_into(
    layers: Sequence[Callable[[], LayerView]],
    recipe: Recipe,
    prune_rate: float,
    *,
    store: Callable[[Tensor], _Mask],
    budget: int | None = None,
    min_active: int = 1,
) -> Rewiring[_Mask]:
    """Do what `rewire` does, but build each view when it is needed, and pass each mask through `store` at once.

    The memory of an update is then a few tensors of the largest layer, and what `store` returns (packed masks, say).
    All device synchronization is in two places, whatever the number of layers: counts and claims are fetched once
    before pruning, the extremes of the scores once after growing. Layers that are split over processes add to that:
    their rules' reductions, and the rounds of their selections.
    """
    evidence = measure_layers(layers, recipe.redistribute, recipe.unshardable, recipe.count)
    seeds = None
    if budget is None and recipe.ranking == "layer":
        rate = prune_rate if recipe.prune else 0.0
        changes = plan_changes(evidence, rate, min_active, grows=recipe.grow is not None)
    else:
        changes, seeds = plan_update(layers, recipe, evidence, prune_rate, budget, min_active)
    survivors, masks = {}, {}
    ranges: list[tuple[Callable[[], LayerView], ScoreRange]] = []
    for index, (view, change) in enumerate(zip(layers, changes, strict=True)):
        # No name is bound to a layer or its masks here: they would live on while the next layer is built.
        survivors[change.name], masks[change.name], of_layer = _rewire_layer(
            view(), recipe, change, store, None if seeds is None else seeds[index]
        )
        ranges += [(view, scores) for scores in of_layer]
    check_scores(ranges)
    return Rewiring(survivors, masks, changes)


def _rewire_layer(
    layer: LayerView, recipe: Recipe, change: LayerChange, store: Callable[[Tensor], _Mask], seed: int | None
) -> tuple[_Mask, _Mask, list[ScoreRange]]:
    """Return survivors, new mask, and the ranges of the scores."""
    ranges = []
    survivors = mask = layer.mask
    # Where all layers were ranked together, rules are to give the same scores again.
    if recipe.prune and change.pruned:
        scores = scores_of(recipe.prune, layer if seed is None else reseeded(layer, seed))
        ranges.append(ScoreRange(layer.shard, extremes(scores)))
        survivors = mask = top_k_mask(scores, change.before - change.pruned, layer.mask, layer.shard)
    if recipe.grow and change.grown:
        scores = scores_of(recipe.grow, layer if seed is None else reseeded(layer, seed + 1))
        ranges.append(ScoreRange(layer.shard, extremes(scores)))
        mask = survivors | top_k_mask(scores, change.grown, ~survivors, layer.shard)
    if recipe.keep_regrown:
        survivors = mask & layer.mask
    return store(survivors), store(mask), ranges
