"""What can go wrong in an update of weights that are split over processes is the same error in each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from split_weights import Group, even_split, rewire_in_chunks, views
from topology_helpers import network, random_layer
from torch import Tensor

from lightning_sparse.topology import (
    RECIPES,
    LayerView,
    MissingSignalError,
    NonFiniteError,
    Recipe,
    Shard,
    ShardingError,
    rewire,
    uses,
)

SPARSE_MOMENTUM, RIGL, SET = RECIPES["sparse_momentum"], RECIPES["rigl"], RECIPES["set"]
NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize(("kind", "recipe"), [("weight", SET), ("momentum", SPARSE_MOMENTUM), ("gradient", RIGL)])
def test_what_is_not_finite_on_one_part_is_the_same_error_on_all(kind: str, recipe: Recipe, value: float) -> None:
    layers = network([(8, 9), (5, 6)])
    for place in torch.nonzero(layers[1].mask)[[0, -1]]:
        values = getattr(layers[1], kind).clone()
        values[tuple(place)] = value
        spoiled = [layers[0], replace(layers[1], **{kind: values})]
        divided = [even_split(layer.mask.shape, 4) for layer in layers]
        errors = rewire_in_chunks(spoiled, recipe, 0.5, divided, Group(4))
        assert all(isinstance(error, NonFiniteError) for error in errors)
        assert {str(error) for error in errors} == {str(errors[0])}
        assert f"in the {kind} of layer 'layer1'" in str(errors[0])


@pytest.mark.parametrize("which", ["prune", "grow"])
def test_nan_scores_of_a_rule_on_one_part_are_an_error_on_all(which: str) -> None:
    @uses(shardable=True)
    def broken(layer: LayerView) -> Tensor:
        first = layer.shard is not None and layer.shard.offset == (0, 0)
        return torch.full_like(layer.weight, NAN if first else 1.0)

    layers, recipe = network([(8, 9)]), replace(SET, **{which: broken})  # type: ignore[arg-type]  # a rule
    for error in rewire_in_chunks(layers, recipe, 0.5, [even_split((8, 9), 3)], Group(3)):
        assert isinstance(error, NonFiniteError)
        assert "for layer 'layer0'; got NaN from a rule" in str(error)


def refused(layers: Sequence[LayerView], recipe: Recipe, error: type[Exception], group: Group) -> str:
    """Return the message of the error that every part raises."""
    divided = [None, *(even_split(layer.mask.shape, 3) for layer in layers[1:])]
    errors = rewire_in_chunks(layers, recipe, 0.5, divided, group)
    assert all(isinstance(each, error) for each in errors), errors
    assert len({str(each) for each in errors}) == 1
    return str(errors[0])


def test_a_recipe_that_needs_whole_weights_is_refused_before_anything_is_reduced() -> None:
    group = Group(3)
    message = refused(network([(8, 9), (5, 6)]), RECIPES["set_original"], ShardingError, group)
    assert "layer 'layer1' is split over processes; got signed_magnitude. Cure: " in message
    assert group.reductions == [[], [], []]


def test_a_claim_that_differs_between_parts_is_refused_on_all() -> None:
    @uses("momentum", shardable=True)
    def of_the_part(layer: LayerView) -> Tensor:
        return layer.require("momentum").abs().sum()

    recipe = replace(SPARSE_MOMENTUM, redistribute=of_the_part)
    assert "the same claim on all parts of layer 'layer1'" in refused(
        network([(8, 9), (5, 6)]), recipe, ValueError, Group(3)
    )


def test_a_claim_below_zero_is_refused_on_every_part() -> None:
    @uses(shardable=True)
    def negative(layer: LayerView) -> float:
        return -1.0

    message = refused(network([(8, 9), (5, 6)]), replace(SET, redistribute=negative), ValueError, Group(3))
    assert "claim >= 0 for layer 'layer0'; got -1.0" in message


def test_a_signal_that_one_part_lacks_is_missing_on_all() -> None:
    layers, group = network([(8, 9)]), Group(3)

    def one(part: int) -> object:
        (view,) = views(layers, [even_split((8, 9), 3)], part, group)
        return rewire([replace(view, momentum=None) if part == 1 else view], SPARSE_MOMENTUM, 0.5)

    for error in group.run(one):
        assert isinstance(error, MissingSignalError)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Shard((3, 4), (0,), torch.clone),
        lambda: Shard((3, 4), (-1, 0), torch.clone),
        lambda: replace(random_layer(shape=(3, 4)), shard=Shard((3, 4), (1, 0), torch.clone)),
        lambda: replace(random_layer(shape=(3, 4)), shard=Shard((12,), (0,), torch.clone)),
    ],
)
def test_a_part_that_does_not_lie_in_the_whole_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ShardingError, match=r"Expected .*; got .*\. Cure: "):
        make()


def test_an_update_with_a_shard_that_cannot_take_a_maximum_is_refused_with_the_cure() -> None:
    layer = replace(random_layer(shape=(3, 4), active=4), shard=Shard((3, 4), (0, 0), torch.clone))
    with pytest.raises(
        ShardingError, match=r"a maximum over all parts; got one with a sum only\. Cure: .*all_reduce_max"
    ):
        rewire([layer], SET, 0.5)
    whole = replace(layer, shard=Shard((3, 4), (0, 0), torch.clone, torch.clone))
    assert rewire([whole], SET, 0.5).changes[0].pruned > 0
