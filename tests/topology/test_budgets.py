"""Updates that change the budget, remove without growing, count for themselves, or rank all layers together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from split_weights import Group, joined, splits, successes, views
from topology_helpers import network, networks, random_layer
from torch import Tensor

from lightning_sparse.topology import LayerView, Recipe, Rewiring, rewire, uses
from lightning_sparse.topology.growth import gradient, momentum, random
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.redistribution import mean_momentum
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError


@uses(shardable=True)
def noise(layer: LayerView) -> Tensor:
    """Score at random."""
    return layer.noise()


@uses(shardable=True)
def coarse(layer: LayerView) -> Tensor:
    """Score by the magnitude in steps, so that many scores are equal."""
    return (2 * layer.weight.abs()).round()


@uses(shardable=True)
def negatives(layer: LayerView) -> Tensor:
    """Count active weights below zero."""
    return torch.count_nonzero((layer.weight < 0) & layer.mask)


REMOVING = [
    Recipe(prune=rule, ranking=ranking) for rule in (magnitude, coarse, noise) for ranking in ("layer", "network")
]  # type: ignore[arg-type]  # a list of two literals
MOVING = [
    Recipe(magnitude, None, random),
    Recipe(magnitude, mean_momentum, momentum),
    Recipe(coarse, None, gradient, ranking="network"),
    Recipe(noise, mean_momentum, noise, keep_regrown=True, ranking="network"),
]


def counts(masks: Sequence[Tensor]) -> list[int]:
    return [int(mask.count_nonzero()) for mask in masks]


def active(layers: Sequence[LayerView]) -> int:
    return sum(counts([layer.mask for layer in layers]))


def least(layers: Sequence[LayerView], min_active: int) -> int:
    return sum(min(min_active, count) for count in counts([layer.mask for layer in layers]))


def check(layers: Sequence[LayerView], rewired: Rewiring[Tensor], min_active: int, grows: bool) -> None:
    for layer, change in zip(layers, rewired.changes, strict=True):
        mask, survivors = rewired.masks[layer.name], rewired.survivors[layer.name]
        assert int(mask.count_nonzero()) == change.active
        assert change.before == int(layer.mask.count_nonzero())
        assert change.active >= min(min_active, change.before)
        assert not (survivors & ~mask).any()
        assert not (survivors & ~layer.mask).any()
        assert grows or not (mask & ~layer.mask).any()


@settings(max_examples=150, deadline=None)
@given(layers=networks(), data=st.data())
def test_a_budget_is_met_exactly_by_every_recipe(layers: list[LayerView], data: st.DataObject) -> None:
    recipe = data.draw(st.sampled_from([*REMOVING, *MOVING]))
    min_active = data.draw(st.integers(0, 3))
    most = sum(layer.size for layer in layers) if recipe.grow else active(layers)
    budget = data.draw(st.integers(least(layers, min_active), most))
    rate = data.draw(st.sampled_from([0.0, 0.3, 1.0])) if recipe.grow else 0.0
    rewired = rewire(layers, recipe, rate, budget=budget, min_active=min_active)
    assert sum(counts([*rewired.masks.values()])) == budget
    check(layers, rewired, min_active, recipe.grow is not None)


@settings(max_examples=100, deadline=None)
@given(layers=networks(), recipe=st.sampled_from(MOVING), rate=st.floats(0, 1))
def test_without_a_budget_growing_recipes_keep_theirs(layers: list[LayerView], recipe: Recipe, rate: float) -> None:
    rewired = rewire(layers, recipe, rate)
    assert sum(counts([*rewired.masks.values()])) == active(layers)
    check(layers, rewired, 1, grows=True)


@settings(max_examples=100, deadline=None)
@given(layers=networks(), rate=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_without_a_budget_a_recipe_that_only_prunes_removes_that_part(layers: list[LayerView], rate: float) -> None:
    alone, together = (rewire(layers, recipe, rate, min_active=0) for recipe in REMOVING[:2])
    check(layers, alone, 0, grows=False)
    check(layers, together, 0, grows=False)
    assert [change.pruned for change in alone.changes] == [round(rate * each.before) for each in alone.changes]
    assert sum(change.pruned for change in together.changes) == round(rate * active(layers))


def highest(layers: Sequence[LayerView], scores: Sequence[Tensor], keep: int, min_active: int) -> list[Tensor]:
    """Return the masks of the highest scores of all layers, by sorting all of them."""
    reserved = []
    for layer, score in zip(layers, scores, strict=True):
        order = sorted(layer.mask.flatten().nonzero().flatten().tolist(), key=lambda i, s=score: -float(s.flatten()[i]))
        reserved.append(set(order[:min_active]))
    rest = [
        (-float(score.flatten()[i]), number, i)
        for number, (layer, score) in enumerate(zip(layers, scores, strict=True))
        for i in layer.mask.flatten().nonzero().flatten().tolist()
        if i not in reserved[number]
    ]
    for _, number, i in sorted(rest)[: keep - sum(map(len, reserved))]:
        reserved[number].add(i)
    masks = []
    for layer, chosen in zip(layers, reserved, strict=True):
        mask = torch.zeros(layer.mask.numel(), dtype=torch.bool)
        mask[sorted(chosen)] = True
        masks.append(mask.view(layer.mask.shape))
    return masks


@settings(max_examples=150, deadline=None)
@given(layers=networks(), rule=st.sampled_from([magnitude, coarse]), data=st.data())
def test_a_ranking_of_all_layers_is_that_of_one_sorted_list(
    layers: list[LayerView], rule: object, data: st.DataObject
) -> None:
    min_active = data.draw(st.integers(0, 3))
    budget = data.draw(st.integers(least(layers, min_active), active(layers)))
    recipe = Recipe(rule, ranking="network")  # type: ignore[arg-type]  # a rule
    rewired = rewire(layers, recipe, budget=budget, min_active=min_active)
    expected = highest(layers, [rule(layer) for layer in layers], budget, min_active)  # type: ignore[operator]  # a rule
    for layer, mask in zip(layers, expected, strict=True):
        assert torch.equal(rewired.masks[layer.name], mask)


def test_layers_of_several_dtypes_are_ranked_without_rounding() -> None:
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    layers = [random_layer(str(i), (8, 9), 72, i, dtype) for i, dtype in enumerate(dtypes)]
    close = 1 + 2.0**-40
    layers[3].weight[0] = close  # in single precision it would equal the next
    layers[2].weight[0] = 1.0
    budget = sum(int((layer.weight.double().abs() >= close).count_nonzero()) for layer in layers)
    rewired = rewire(layers, Recipe(magnitude, ranking="network"), budget=budget)
    assert rewired.masks["3"][0].all()
    assert not rewired.masks["2"][0].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_scores_may_be_integers(dtype: torch.dtype) -> None:
    layers = network([(6, 6), (4, 5)], density=1.0)
    recipe = Recipe(lambda layer: (layer.weight > 0).to(dtype), ranking="network")
    budget = sum(int((layer.weight > 0).count_nonzero()) for layer in layers)
    rewired = rewire(layers, recipe, budget=budget)
    assert all(torch.equal(rewired.masks[layer.name], layer.weight > 0) for layer in layers)


@settings(max_examples=60, deadline=None)
@given(layers=networks(), data=st.data())
def test_the_parts_of_split_layers_make_up_what_whole_layers_give(layers: list[LayerView], data: st.DataObject) -> None:
    recipe = data.draw(
        st.sampled_from([*REMOVING, MOVING[1], MOVING[3], Recipe(magnitude, None, noise, count=negatives)])
    )
    parts = data.draw(st.integers(1, 3))
    divided = [data.draw(st.none() | splits(layer.mask.shape, parts)) for layer in layers]
    most = sum(layer.size for layer in layers) if recipe.grow else active(layers)
    budget = data.draw(st.none() | st.integers(least(layers, 1), most)) if recipe.count is None else None
    rate = 0.3 if recipe.grow or budget is None else 0.0
    group = Group(parts)

    def one(part: int) -> Rewiring[Tensor]:
        return rewire(views(layers, divided, part, group), recipe, rate, budget=budget)

    results = successes(group.run(one))
    whole = rewire(views(layers, [None] * len(layers), 0, group), recipe, rate, budget=budget)
    assert all(result.changes == whole.changes for result in results)
    for layer, split in zip(layers, divided, strict=True):
        masks = joined([result.masks[layer.name] for result in results], split, layer.mask.shape)
        assert torch.equal(masks, whole.masks[layer.name])


def test_a_random_ranking_takes_every_weight_as_often_and_is_repeatable() -> None:
    recipe = Recipe(noise, ranking="network")
    kept = torch.zeros(2)
    for seed in range(200):
        first, again = (rewire(network([(10, 10), (5, 4)], 1.0, seed), recipe, budget=60) for _ in range(2))
        assert all(torch.equal(first.masks[name], again.masks[name]) for name in first.masks)
        kept += torch.tensor(counts([*first.masks.values()]))
    assert kept / 200 / torch.tensor([100, 20]) == pytest.approx([0.5, 0.5], abs=0.03)


def test_a_lower_budget_is_shared_in_proportion_to_active_weights_unless_all_are_ranked() -> None:
    layers = network([(10, 10), (20, 10)], density=0.4)
    layers[1] = replace(layers[1], weight=layers[1].weight * 100)
    alone = rewire(layers, Recipe(magnitude), budget=60)
    together = rewire(layers, Recipe(magnitude, ranking="network"), budget=60)
    assert [change.active for change in alone.changes] == [20, 40]
    assert [change.active for change in together.changes] == [1, 59]


def test_a_higher_budget_grows_where_the_growth_rule_says() -> None:
    layers = network([(10, 10), (20, 10)], density=0.1)
    rewired = rewire(layers, Recipe(magnitude, None, gradient, ranking="network"), budget=50)
    assert sum(counts([*rewired.masks.values()])) == 50
    grown = [
        layer.gradient.abs()[rewired.masks[layer.name] & ~layer.mask] for layer in layers if layer.gradient is not None
    ]
    left = [layer.gradient.abs()[~rewired.masks[layer.name]] for layer in layers if layer.gradient is not None]
    assert torch.cat(grown).min() >= torch.cat(left).max()
    assert all((rewired.masks[layer.name] & layer.mask).equal(layer.mask) for layer in layers)


def test_weights_move_at_the_budget_that_was_reached() -> None:
    layers = network([(10, 10), (20, 10)], density=0.5)
    still, moving = (rewire(layers, Recipe(magnitude, None, gradient), rate, budget=60) for rate in (0.0, 0.5))
    assert [change.active for change in still.changes] == [change.active for change in moving.changes] == [20, 40]
    assert [(change.pruned, change.grown) for change in still.changes] == [(30, 0), (60, 0)]
    assert [(change.pruned, change.grown) for change in moving.changes] == [(40, 10), (80, 20)]


@settings(max_examples=100, deadline=None)
@given(layers=networks(), grows=st.booleans(), rate=st.sampled_from([0.0, 0.9]))
def test_a_count_says_how_many_weights_a_layer_loses(layers: list[LayerView], grows: bool, rate: float) -> None:
    recipe = Recipe(lambda layer: layer.weight, None, noise if grows else None, count=negatives)
    rewired = rewire(layers, recipe, rate, min_active=0)
    sparse = active(layers) < sum(layer.size for layer in layers)
    for layer, change in zip(layers, rewired.changes, strict=True):
        expected = int(negatives(layer))
        moves = not grows or (sparse and change.before < change.size)
        assert change.pruned == (expected if moves else 0)
        assert change.grown == (change.pruned if grows else 0)


@pytest.mark.parametrize("count", [True, 1.0, "3", None, torch.tensor(1.0), torch.tensor([1, 2]), -1, 61, 2**70])
def test_an_unusable_count_is_an_error(count: object) -> None:
    recipe = Recipe(magnitude, None, random, count=lambda layer: count)  # type: ignore[arg-type, return-value]  # on purpose
    with pytest.raises(InvalidValueError, match="layer0"):
        rewire(network([(20, 10)], 0.3), recipe)


@pytest.mark.parametrize("count", [7, torch.tensor(7), torch.tensor([7], dtype=torch.int16)])
def test_a_count_may_be_an_integer_or_a_tensor(count: int | Tensor) -> None:
    recipe = Recipe(magnitude, None, random, count=lambda layer: count)
    assert rewire(network([(20, 10)], 0.3), recipe).changes[0].pruned == 7


@pytest.mark.parametrize(
    ("recipe", "rate", "budget", "message"),
    [
        (Recipe(magnitude), 0.0, 61, "from 2 to 60 active"),
        (Recipe(magnitude), 0.0, 1, "from 2 to 60 active"),
        (Recipe(magnitude), 0.2, 50, "either a budget or a prune rate"),
        (Recipe(magnitude, count=negatives), 0.0, 50, "either a budget or a prune rate"),
        (Recipe(magnitude, None, random), 0.0, 301, "from 2 to 300 active"),
        (Recipe(None, None, None), 0.0, 59, "as it is, of a recipe without rules"),
        (Recipe(magnitude, ranking="network"), 1.5, None, r"prune rate in \[0, 1\]"),
    ],
    ids=str,
)
def test_what_cannot_be_reached_is_an_error_that_says_what_can(
    recipe: Recipe, rate: float, budget: int | None, message: str
) -> None:
    layers = network([(10, 10), (20, 10)], density=0.2)
    state = layers[0].generator.get_state()
    with pytest.raises(InvalidValueError, match=message):
        rewire(layers, recipe, rate, budget=budget)
    assert torch.equal(layers[0].generator.get_state(), state)


def test_a_ranking_of_scores_that_are_not_numbers_is_an_error() -> None:
    layers = network([(10, 10), (20, 10)])
    recipe = Recipe(lambda layer: layer.weight / 0, ranking="network")
    with pytest.raises(InvalidValueError, match="NaN from a rule"):
        rewire(layers, recipe, budget=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grow": random}, "name the missing rule"),
        ({"prune": magnitude, "redistribute": mean_momentum}, "leave out redistribute"),
        ({"count": negatives}, "leave out count"),
        ({"prune": magnitude, "ranking": "global"}, "'layer' or 'network'"),
        ({"prune": magnitude, "ranking": "network", "count": negatives}, "drop one of the two"),
    ],
    ids=["no pruning", "no growth to redistribute", "no pruning to count", "ranking", "ranking and count"],
)
def test_rules_that_make_no_method_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Recipe(**{"prune": None, **options})  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InvalidTypeError, match="as count"):
        Recipe(magnitude, count=3)  # type: ignore[arg-type]  # on purpose


def test_a_recipe_at_a_constant_budget_draws_and_decides_as_without_these_options() -> None:
    recipe = Recipe(magnitude, mean_momentum, random)
    layers, same = network([(10, 10), (20, 10)]), network([(10, 10), (20, 10)])
    without, with_budget = rewire(layers, recipe, 0.5), rewire(same, recipe, 0.5, budget=active(layers))
    assert without.changes == with_budget.changes
    assert all(torch.equal(without.masks[name], with_budget.masks[name]) for name in without.masks)
    assert sum(change.grown for change in without.changes) > 0
