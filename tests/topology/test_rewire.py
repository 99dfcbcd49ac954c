from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from topology_helpers import builders, network, networks, random_layer, total_active, values_after
from torch import Tensor

from lightning_sparse.topology import RECIPES, LayerView, Recipe, rewire
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.packing import pack_mask, unpack_mask
from lightning_sparse.topology.pruning import PRUNING, magnitude
from lightning_sparse.topology.redistribution import REDISTRIBUTION
from lightning_sparse.topology.rewire import rewire_into

SPARSE_MOMENTUM = RECIPES["sparse_momentum"]

RECIPES_OF_ALL_RULES = st.builds(
    Recipe,
    st.sampled_from(list(PRUNING.values())),
    st.sampled_from(list(REDISTRIBUTION.values())),
    st.sampled_from(list(GROWTH.values())),
)
PRUNE_RATES = st.sampled_from([0.0, 0.2, 0.5, 1.0]) | st.floats(0, 1)


@settings(max_examples=300, deadline=None)
@given(layers=networks(), recipe=RECIPES_OF_ALL_RULES, prune_rate=PRUNE_RATES, min_active=st.integers(0, 3))
def test_the_number_of_active_weights_is_conserved_and_the_masks_are_what_the_changes_say(
    layers: list[LayerView], recipe: Recipe, prune_rate: float, min_active: int
) -> None:
    rewiring = rewire(layers, recipe, prune_rate, min_active=min_active)
    assert total_active(rewiring.masks) == sum(int(layer.mask.sum()) for layer in layers)
    for layer, change in zip(layers, rewiring.changes, strict=True):
        survivors, mask = rewiring.survivors[layer.name], rewiring.masks[layer.name]
        assert mask.dtype == survivors.dtype == torch.bool
        assert mask.shape == survivors.shape == layer.weight.shape
        assert (change.before, change.active) == (int(layer.mask.sum()), int(mask.sum()))
        assert survivors.sum() == change.before - change.pruned
        # What survives was active and stays so: with the counts above, exactly `grown` others are active now.
        assert not (survivors & ~(layer.mask & mask)).any()


def test_minimum_is_still_taken_for_min_active_and_warns() -> None:
    layers = network([(6, 10), (3, 4)], seed=3)
    with pytest.warns(DeprecationWarning, match="use min_active"):
        old = rewire(layers, SPARSE_MOMENTUM, 1.0, minimum=14)
    new = rewire(network([(6, 10), (3, 4)], seed=3), SPARSE_MOMENTUM, 1.0, min_active=14)
    assert old.changes == new.changes != rewire(network([(6, 10), (3, 4)], seed=3), SPARSE_MOMENTUM, 1.0).changes


@settings(max_examples=100, deadline=None)
@given(layers=networks(), recipe=RECIPES_OF_ALL_RULES, prune_rate=PRUNE_RATES)
def test_what_comes_in_is_never_changed(layers: list[LayerView], recipe: Recipe, prune_rate: float) -> None:
    kinds = ("weight", "mask", "momentum", "gradient")
    copies = [{kind: getattr(layer, kind).clone() for kind in kinds} for layer in layers]
    rewire(layers, recipe, prune_rate)
    for layer, copy in zip(layers, copies, strict=True):
        for kind in kinds:
            assert torch.equal(getattr(layer, kind), copy[kind])


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES.values() if recipe.prune])
def test_a_prune_rate_of_zero_changes_nothing_and_a_larger_one_something(recipe: Recipe) -> None:
    layers = network([(8, 9), (5, 6), (4, 2, 3, 3)])
    still, moving = rewire(layers, recipe, 0.0), rewire(layers, recipe, 0.3)
    for layer in layers:
        assert torch.equal(still.masks[layer.name], layer.mask)
        assert torch.equal(still.survivors[layer.name], layer.mask)
    assert any(not torch.equal(moving.masks[layer.name], layer.mask) for layer in layers)
    assert any(not torch.equal(moving.survivors[layer.name], layer.mask) for layer in layers)


def test_the_smallest_weights_go_and_the_others_keep_their_value() -> None:
    layer = random_layer(active=20)
    left = values_after(layer, rewire([layer], SPARSE_MOMENTUM, 0.3))
    kept, lost = layer.weight[left != 0], layer.weight[(left == 0) & layer.mask]
    assert torch.equal(left[left != 0], kept)
    assert (len(kept), len(lost)) == (14, 6)
    assert kept.abs().min() > lost.abs().max()


def test_the_inactive_weights_with_the_largest_momentum_are_grown() -> None:
    layer = random_layer(active=20)
    rewiring = rewire([layer], SPARSE_MOMENTUM, 0.3)
    assert layer.momentum is not None
    strength, grown = layer.momentum.abs(), rewiring.masks["layer"] & ~rewiring.survivors["layer"]
    assert grown.sum() == 6
    assert strength[grown].min() > strength[~rewiring.masks["layer"]].max()


def test_weights_move_towards_layers_with_more_momentum_only_if_redistributed() -> None:
    weak, strong = random_layer("weak", seed=1), random_layer("strong", seed=2)
    assert strong.momentum is not None
    layers = [weak, replace(strong, momentum=strong.momentum * 3)]
    moved = rewire(layers, SPARSE_MOMENTUM, 0.5).changes
    assert moved[0].active < 20 < moved[1].active
    stayed = rewire(layers, replace(SPARSE_MOMENTUM, redistribute=None), 0.5).changes
    assert [change.active for change in stayed] == [20, 20]


def test_claims_are_measured_before_pruning() -> None:
    # The weight of the first layer with all the momentum is the smallest and goes; its claim counts all the same.
    mask = torch.tensor([[True] * 4 + [False] * 16])
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0] + [0.0] * 16])
    momentum = torch.tensor([[12.0] + [0.0] * 19])
    first = LayerView("first", weight, mask, torch.Generator(), momentum)
    second = LayerView("second", weight, mask, torch.Generator(), torch.ones(1, 20))
    assert [change.share for change in rewire([first, second], SPARSE_MOMENTUM, 0.5).changes] == [0.75, 0.25]


def test_grown_weights_are_zero_even_where_they_were_just_pruned() -> None:
    layer = random_layer(active=59)  # one place is free: most of what grows was just pruned
    sparse = random_layer("sparse", active=20)
    rewiring = rewire([layer, sparse], replace(SPARSE_MOMENTUM, redistribute=None), 0.5)
    assert rewiring.masks["layer"].sum() == 59
    assert rewiring.survivors["layer"].sum() == 29


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_an_empty_and_a_dense_network_stay_as_they_are(density: float) -> None:
    layers = network([(3, 4), (5, 6)], density)
    rewiring = rewire(layers, SPARSE_MOMENTUM, 0.5)
    for layer in layers:
        assert torch.equal(rewiring.survivors[layer.name], layer.mask)
        assert torch.equal(rewiring.masks[layer.name], layer.mask)


def test_no_layers_are_rewired_into_none() -> None:
    rewiring = rewire([], SPARSE_MOMENTUM, 0.5)
    assert (rewiring.masks, rewiring.survivors, rewiring.changes) == ({}, {}, ())


def test_random_growth_depends_on_the_generator_alone() -> None:
    def masks(seed: int, global_seed: int) -> list[Tensor]:
        torch.manual_seed(global_seed)
        layers = network([(20, 20), (10, 10)], seed=0)
        generator = torch.Generator().manual_seed(seed)
        rewiring = rewire([replace(layer, generator=generator) for layer in layers], RECIPES["set"], 0.5)
        return list(rewiring.masks.values())

    assert all(map(torch.equal, masks(7, global_seed=0), masks(7, global_seed=1)))
    assert not any(map(torch.equal, masks(7, global_seed=0), masks(8, global_seed=0)))


def test_random_growth_gives_every_inactive_weight_the_same_chance() -> None:
    # 12 inactive weights of which 6 are grown, 2000 times: each about 1000 times, within 5 standard deviations.
    generator = torch.Generator().manual_seed(0)
    weight = torch.cat([torch.arange(12.0, 0.0, -1.0), torch.zeros(6)]).view(3, 6)
    layer = LayerView("layer", weight, weight > 0, generator)
    times = torch.zeros(3, 6)
    for _ in range(2000):
        rewiring = rewire([layer], RECIPES["set"], 0.5)
        times += rewiring.masks["layer"] & ~rewiring.survivors["layer"]
    assert times.reshape(-1)[:6].sum() == 0
    assert (times.reshape(-1)[6:] - 1000).abs().max() < 5 * (2000 * 0.25) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_weights_of_other_precisions_are_rewired_exactly_too(name: str, dtype: torch.dtype) -> None:
    layers = [random_layer("a", (7, 9), 30, 1, dtype), random_layer("b", (3, 4), 2, 2, dtype)]
    grows = RECIPES[name].grow is not None or RECIPES[name].prune is None
    assert total_active(rewire(layers, RECIPES[name], 0.5).masks) == (32 if grows else 16)


def test_layers_of_different_precision_are_rewired_together() -> None:
    layers = [random_layer("a", (7, 9), 30, 1, torch.float16), random_layer("b", (7, 9), 30, 1, torch.float64)]
    changes = rewire(layers, SPARSE_MOMENTUM, 0.5).changes
    assert [change.active for change in changes] == [30, 30]


def test_masks_can_be_stored_in_another_form() -> None:
    layers = network([(8, 9), (5, 7)])
    plain = rewire(layers, SPARSE_MOMENTUM, 0.5)
    packed = rewire_into(builders(layers), SPARSE_MOMENTUM, 0.5, store=pack_mask)
    assert packed.changes == plain.changes
    for layer in layers:
        assert torch.equal(unpack_mask(packed.masks[layer.name], layer.mask.shape), plain.masks[layer.name])
        assert torch.equal(unpack_mask(packed.survivors[layer.name], layer.mask.shape), plain.survivors[layer.name])


def test_infinite_scores_of_a_rule_force_and_forbid() -> None:
    layer = random_layer(active=20)

    def not_in_the_first_row(layer: LayerView) -> Tensor:
        scores = torch.zeros(layer.weight.shape)
        scores[0], scores[5] = float("-inf"), float("inf")
        return scores

    rewiring = rewire([layer], Recipe(magnitude, None, not_in_the_first_row), 0.2)
    grown = rewiring.masks["layer"] & ~rewiring.survivors["layer"]
    assert grown[5].sum() == grown.sum() == 4


@pytest.mark.parametrize("claim", [2, 2.0, True, torch.tensor(2), torch.tensor([2.0]), torch.tensor(2.0).half()])
def test_a_claim_may_be_any_kind_of_number(claim: Any) -> None:
    changes = rewire(network([(8, 9), (8, 9)]), replace(SPARSE_MOMENTUM, redistribute=lambda _: claim), 0.5).changes
    assert [change.share for change in changes] == [0.5, 0.5]


def test_a_recipe_names_the_signals_of_its_rules_and_all_for_an_undeclared_rule() -> None:
    assert RECIPES["set"].signals == frozenset()
    assert RECIPES["rigl"].signals == {"gradient"}
    assert SPARSE_MOMENTUM.signals == {"momentum"}
    assert Recipe(magnitude, None, lambda layer: layer.weight).signals == {"momentum", "gradient"}


def test_rules_are_asked_only_for_layers_that_change() -> None:
    asked: list[str] = []

    def noted(layer: LayerView) -> Tensor:
        asked.append(layer.name)
        return layer.weight.abs()

    recipe = Recipe(prune=noted, redistribute=None, grow=noted)
    layers = network([(6, 9), (3, 4)])
    rewire(layers, recipe, 0.0)
    assert asked == []
    rewire(layers, recipe, 0.5)
    assert asked == ["layer0", "layer0", "layer1", "layer1"]
