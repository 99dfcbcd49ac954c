"""An update of weights that are split over processes does, part by part, what it does to whole weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend_device import DeviceTensor, PretendDevice
from split_weights import Group, Split, even_split, joined, rewire_in_chunks, splits, successes, views
from topology_helpers import network, networks, random_layer
from torch import Tensor

from lightning_sparse.topology import (
    RECIPES,
    LayerView,
    Recipe,
    Rewiring,
    Shard,
    rewire,
    uses,
)
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.layer import is_shardable
from lightning_sparse.topology.pruning import PRUNING, magnitude
from lightning_sparse.topology.redistribution import REDISTRIBUTION, mean_momentum

SPARSE_MOMENTUM, RIGL, SET = RECIPES["sparse_momentum"], RECIPES["rigl"], RECIPES["set"]
SHARDABLE = [
    Recipe(prune, redistribute, grow, keep_regrown)
    for prune in PRUNING.values()
    for redistribute in REDISTRIBUTION.values()
    for grow in GROWTH.values()
    for keep_regrown in (False, True)
    if all(map(is_shardable, (prune, redistribute, grow)))
]


def assert_same(
    layers: Sequence[LayerView], parts: list[Rewiring[Tensor]], divided: Sequence[Split], whole: Any
) -> None:
    assert all(part.changes == whole.changes for part in parts)
    for layer, split in zip(layers, divided, strict=True):
        for kind in ("masks", "survivors"):
            got = joined([getattr(part, kind)[layer.name] for part in parts], split, layer.mask.shape)
            assert torch.equal(got, getattr(whole, kind)[layer.name])


def check(layers: list[LayerView], recipe: Recipe, prune_rate: float, divided: Sequence[Split], parts: int) -> None:
    """Update the whole weights and their parts from the same random state, and compare."""
    state = layers[0].generator.get_state()
    whole = rewire(layers, recipe, prune_rate)
    layers[0].generator.set_state(state)
    assert_same(layers, successes(rewire_in_chunks(layers, recipe, prune_rate, divided, Group(parts))), divided, whole)


def after(layer: LayerView, rewiring: Rewiring[Tensor]) -> LayerView:
    return replace(layer, weight=layer.weight * rewiring.survivors[layer.name], mask=rewiring.masks[layer.name])


def test_the_rules_that_work_on_parts_are_those_that_say_so() -> None:
    rules: dict[str, Any] = {**PRUNING, **GROWTH, **REDISTRIBUTION}
    assert {name for name, rule in rules.items() if not is_shardable(rule)} == {"signed_magnitude"}
    assert not is_shardable(uses()(lambda layer: layer.weight))
    assert not is_shardable(lambda layer: layer.weight)
    assert {name for name, recipe in RECIPES.items() if not recipe.shardable} == {"set_original"}


@pytest.mark.parametrize("recipe", SHARDABLE)
@settings(max_examples=25, deadline=None)
@given(layers=networks(), prune_rate=st.floats(0, 1), parts=st.integers(1, 4), data=st.data())
def test_the_masks_of_the_parts_make_up_those_of_whole_weights(
    recipe: Recipe, layers: list[LayerView], prune_rate: float, parts: int, data: st.DataObject
) -> None:
    divided = [data.draw(st.none() | splits(layer.mask.shape, parts)) for layer in layers]
    check(layers, recipe, prune_rate, divided, parts)


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES.values() if recipe.shardable])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_other_precisions_are_rewired_in_parts_too(recipe: Recipe, dtype: torch.dtype) -> None:
    layers = [random_layer("a", (37, 49), 300, 1, dtype), random_layer("b", (3, 40), 2, 2, dtype)]
    layers[1] = replace(layers[1], generator=layers[0].generator)
    check(layers, recipe, 0.5, [even_split(layer.mask.shape, 4) for layer in layers], 4)


@pytest.mark.parametrize("recipe", [SPARSE_MOMENTUM, SET, RIGL], ids=["sparse_momentum", "set", "rigl"])
def test_a_second_update_goes_on_from_the_first_one(recipe: Recipe) -> None:
    layers = network([(9, 8), (2, 6), (4, 2, 3, 3)])
    divided = [even_split(layers[0].mask.shape, 3), None, even_split(layers[2].mask.shape, 3)]
    group = Group(3)

    def twice(views: list[LayerView]) -> Rewiring[Tensor]:
        first = rewire(views, recipe, 0.5)
        return rewire([after(view, first) for view in views], recipe, 0.3)

    parts = successes(group.run(lambda part: twice(views(layers, divided, part, group))))
    assert_same(layers, parts, divided, twice(layers))


@pytest.mark.parametrize("exponents", [40, 900])
def test_mean_momentum_is_the_same_to_the_last_bit_however_it_is_split(exponents: int) -> None:
    # Magnitudes so far apart that doubles added in another order give another sum.
    layer = random_layer(shape=(64, 50), active=2500, dtype=torch.float64)
    rng = torch.Generator().manual_seed(1)
    assert layer.momentum is not None
    momentum = layer.momentum * torch.exp2(torch.randint(-exponents, exponents, (64, 50), generator=rng).double())
    layer, group = replace(layer, momentum=momentum), Group(4)
    divided = [even_split(layer.mask.shape, 4)]
    claims = successes(group.run(lambda part: mean_momentum(views([layer], divided, part, group)[0])))
    whole = mean_momentum(layer)
    assert all(isinstance(claim, Tensor) and torch.equal(claim, torch.as_tensor(whole)) for claim in claims)
    assert float(whole) == pytest.approx(float(momentum[layer.mask].abs().mean()), rel=1e-12)


def test_noise_of_the_parts_makes_up_the_noise_of_the_whole() -> None:
    layer = random_layer(shape=(5, 4), seed=3)
    expected = torch.rand(5, 4, generator=torch.Generator().manual_seed(3))
    for offset, shape in [((0, 0), (5, 4)), ((2, 1), (3, 2)), ((5, 0), (0, 4))]:
        shard = Shard((5, 4), offset, torch.clone)
        view = replace(random_layer(shape=(5, 4), seed=3), weight=torch.zeros(shape), shard=shard)
        assert torch.equal(view.noise(), shard.part_of(expected, shape))
    assert torch.equal(layer.noise(), expected)


@pytest.mark.parametrize("low", [float("-inf"), float("inf")])
def test_infinite_scores_on_some_parts_force_and_forbid(low: float) -> None:
    @uses(shardable=True)
    def by_row(layer: LayerView) -> Tensor:
        rows = torch.arange(8) if layer.shard is None else layer.shard.offset[0] + torch.arange(len(layer.weight))
        return torch.where(rows < 4, low, -low)[:, None].expand_as(layer.weight)

    check(network([(8, 9)]), Recipe(magnitude, None, by_row), 0.5, [even_split((8, 9), 3)], 3)


@pytest.mark.parametrize("claim", [0, 0.1, 2, torch.tensor(1 / 3), torch.tensor(1e300, dtype=torch.float64), 5e-324])
def test_a_claim_that_is_equal_on_all_parts_counts_to_the_last_bit(claim: Any) -> None:
    @uses(shardable=True)
    def constant(layer: LayerView) -> Any:
        return claim if layer.name == "layer0" else 3.0

    layers = network([(8, 9), (5, 6)])
    check(layers, replace(SET, redistribute=constant), 0.5, [even_split((8, 9), 3), None], 3)


def test_counts_and_claims_of_all_layers_travel_together() -> None:
    def reductions(layers: int, recipe: Recipe) -> int:
        group = Group(2)
        divided = [even_split((8, 9), 2)] * layers
        successes(rewire_in_chunks(network([(8, 9)] * layers), recipe, 0.0, divided, group))
        return len(group.reductions[0])

    assert reductions(1, SET) == reductions(9, SET) == 2  # a sum and a maximum


def test_a_part_on_a_device_is_rewired_as_on_the_cpu() -> None:
    (layer,) = network([(8, 9)])
    expected = {name: rewire([layer], RECIPES[name], 0.5).masks["layer0"] for name in ("sparse_momentum", "rigl")}
    for name, mask in expected.items():
        assert layer.momentum is not None
        assert layer.gradient is not None
        tensors = [DeviceTensor(each) for each in (layer.weight, layer.mask, layer.momentum, layer.gradient)]
        shard = Shard((8, 9), (0, 0), torch.clone, torch.clone)
        view = LayerView("layer0", tensors[0], tensors[1], layer.generator, tensors[2], tensors[3], shard)
        with PretendDevice():
            got = rewire([view], RECIPES[name], 0.5).masks["layer0"].cpu()
        assert torch.equal(got, mask)


def test_a_view_knows_the_size_of_the_whole_and_adds_up_over_its_parts() -> None:
    layer, group = random_layer(shape=(7, 3)), Group(3)
    divided = [even_split((7, 3), 3)]

    def one(part: int) -> tuple[int, int]:
        (view,) = views([layer], divided, part, group)
        return view.size, int(view.total(torch.count_nonzero(view.mask)))

    assert group.run(one) == [(21, int(layer.mask.sum()))] * 3
    assert layer.total(layer.weight) is layer.weight
