"""How many weights each layer loses and gains in one update of a recipe, at a constant budget or to another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from lightning_sparse.topology.plan import LayerChange, LayerEvidence, plan_changes
from lightning_sparse.topology.ranking import RankedLayer, View, draw_seeds, rank_network
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.select import apportion
from lightning_sparse.validation.errors import InvalidValueError


class UpdatePlan(NamedTuple):
    """The counts of one update.

    Attributes:
        changes: Numbers of weights that each layer loses and gains.
        seeds: Seed of each layer's pruning scores, if all layers were ranked together; that of its growth scores is the
            next integer. None if each layer was ranked alone.
    """

    changes: tuple[LayerChange, ...]
    seeds: list[int] | None = None


def plan_update(
    layers: Sequence[View],
    recipe: Recipe,
    evidence: Sequence[LayerEvidence],
    prune_rate: float,
    budget: int | None,
    min_active: int,
) -> UpdatePlan:
    """Return the counts of an update: first the budget changes, then weights move at that budget.

    A lower budget takes the lowest scores of the pruning rule, a higher one adds the highest of the growth rule: of all
    layers together if the recipe ranks them so, else of each layer in proportion to its active weights.

    Args:
        layers: One function per masked weight that returns its view.
        recipe: The rules.
        evidence: Measured counts and claims of the layers.
        prune_rate: Fraction in [0, 1] of the active weights to prune, after the budget has changed.
        budget: Number of active weights of all layers afterwards; None keeps it if weights are grown.
        min_active: Minimum number of active weights per layer; of a layer that has fewer, the number it has.

    Raises:
        ValueError: If the prune rate is out of range, or the budget is, with the feasible range.
    """
    plan_changes([], prune_rate)  # which raises if it is out of range
    rate = prune_rate if recipe.prune else 0.0
    before = [layer.active for layer in evidence]
    least = [min(min_active, active) for active in before]
    if budget is not None:
        _check_budget(recipe, evidence, rate, budget, least)
    seeds = draw_seeds(layers) if recipe.ranking == "network" else None
    if recipe.grow is None and budget is None and seeds is not None:  # to remove a part is to lower the budget
        budget, rate = max(sum(before) - round(rate * sum(before)), sum(least)), 0.0
    after = before if budget is None else _changed(layers, recipe, evidence, budget, least, seeds)
    kept = [min(pair) for pair in zip(before, after, strict=True)]
    lost: Sequence[int | None] = [layer.loss for layer in evidence]
    if seeds is not None and recipe.prune is not None and rate and recipe.count is None:
        ranked = _ranked(layers, recipe, seeds, grows=False)
        survivors = rank_network(ranked, sum(kept) - min(round(rate * sum(kept)), sum(kept) - sum(least)), least)
        lost = [held - left for held, left in zip(kept, survivors, strict=True)]
    # What a higher budget adds has its place already.
    moving = [
        replace(layer, size=layer.size - (end - held), active=held, loss=None if loss is None else min(loss, held))
        for layer, held, end, loss in zip(evidence, kept, after, lost, strict=True)
    ]
    moves = plan_changes(moving, rate, min_active, grows=recipe.grow is not None)
    changes = tuple(
        LayerChange(
            layer.name, layer.size, layer.active, layer.active - held + move.pruned, end - held + move.grown, move.share
        )
        for layer, held, end, move in zip(evidence, kept, after, moves, strict=True)
    )
    return UpdatePlan(changes, seeds)


def _ranked(layers: Sequence[View], recipe: Recipe, seeds: Sequence[int], *, grows: bool) -> list[RankedLayer]:
    rule = recipe.grow if grows else recipe.prune
    assert rule is not None  # as was checked
    return [RankedLayer(view, rule, grows, seed + grows) for view, seed in zip(layers, seeds, strict=True)]


def _changed(
    layers: Sequence[View],
    recipe: Recipe,
    evidence: Sequence[LayerEvidence],
    budget: int,
    least: Sequence[int],
    seeds: Sequence[int] | None,
) -> list[int]:
    """Return the number of active weights of each layer at another budget."""
    before = [layer.active for layer in evidence]
    added = budget - sum(before)
    if added == 0:
        return before
    if seeds is None and added < 0:
        return apportion(budget, before, before, least)
    if seeds is None:
        return apportion(budget, before, [layer.size for layer in evidence], before)
    if added < 0:
        return rank_network(_ranked(layers, recipe, seeds, grows=False), budget, least)
    gained = rank_network(_ranked(layers, recipe, seeds, grows=True), added, [0] * len(before))
    return [active + more for active, more in zip(before, gained, strict=True)]


def _check_budget(
    recipe: Recipe, evidence: Sequence[LayerEvidence], prune_rate: float, budget: int, least: Sequence[int]
) -> None:
    before = sum(layer.active for layer in evidence)
    if recipe.prune is None and budget != before:
        raise InvalidValueError(
            expected=f"a budget of {before} active weights, as it is, of a recipe without rules",
            got=budget,
            cure="use a recipe that prunes",
        )
    if recipe.grow is None and (prune_rate or recipe.count):
        raise InvalidValueError(
            expected="either a budget or a prune rate (or count) where nothing is grown, as each says how many go",
            got=f"a budget of {budget} and " + ("a count" if recipe.count else f"a prune rate of {prune_rate}"),
            cure="leave the prune rate at 0",
        )
    most = before if recipe.grow is None else sum(layer.size for layer in evidence)
    if not sum(least) <= budget <= most:
        raise InvalidValueError(
            expected=f"a budget from {sum(least)} to {most} active weights of all layers",
            got=budget,
            cure="choose a density in that range" + ("" if recipe.grow else "; nothing is grown by this recipe"),
        )
