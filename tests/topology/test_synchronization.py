"""On an accelerator an update does what it does on the CPU, and waits twice, however many layers there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend_device import DEVICE, DeviceTensor, PretendDevice
from topology_helpers import builders, network, networks, random_layer

from lightning_sparse.topology import RECIPES, LayerView, NonFiniteError, Recipe, rewire
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.packing import pack_mask
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.redistribution import REDISTRIBUTION
from lightning_sparse.topology.rewire import rewire_into


def on_device(layers: Sequence[LayerView]) -> list[LayerView]:
    """Return the same layers on the device, with a common generator in the same state."""
    generator = torch.Generator().set_state(layers[0].generator.get_state())

    def moved(values: torch.Tensor | None) -> torch.Tensor:
        assert values is not None
        return DeviceTensor(values)

    return [
        replace(
            layer,
            weight=moved(layer.weight),
            mask=moved(layer.mask),
            momentum=moved(layer.momentum),
            gradient=moved(layer.gradient),
            generator=generator,
            others={signal: moved(values) for signal, values in layer.others.items()},
        )
        for layer in layers
    ]


def waits(layers: Sequence[LayerView], recipe: Recipe) -> Counter[str]:
    with PretendDevice() as device:
        rewire_into(builders(on_device(layers)), recipe, 0.5, store=pack_mask)
    return device.waits


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_an_update_waits_for_the_device_at_most_twice_whatever_the_number_of_layers(name: str) -> None:
    few, many = (waits(network([(6, 9)] * number), RECIPES[name]) for number in (2, 12))
    assert few == many
    assert 1 <= many.total() <= 2


def test_rules_without_a_claim_as_tensor_wait_no_more() -> None:
    recipe = replace(RECIPES["sparse_momentum"], redistribute=lambda layer: float(layer.weight.numel()))
    assert waits(network([(6, 9)] * 12), recipe).total() == 2


def test_a_rule_that_waits_is_seen_to_wait_once_per_layer() -> None:
    def with_item(layer: LayerView) -> torch.Tensor:
        return layer.weight.abs() / layer.weight.abs().sum().item()

    recipe = replace(RECIPES["sparse_momentum"], prune=with_item)
    assert waits(network([(6, 9)] * 12), recipe).total() == 2 + 12


@settings(max_examples=150, deadline=None)
@given(
    layers=networks(),
    prune=st.sampled_from(sorted(PRUNING)),
    redistribute=st.sampled_from(sorted(REDISTRIBUTION)),
    grow=st.sampled_from(sorted(GROWTH)),
    prune_rate=st.floats(0, 1),
)
def test_masks_on_a_device_are_those_on_the_cpu(
    layers: list[LayerView], prune: str, redistribute: str, grow: str, prune_rate: float
) -> None:
    recipe = Recipe(PRUNING[prune], REDISTRIBUTION[redistribute], GROWTH[grow])
    there = on_device(layers)
    expected = rewire(layers, recipe, prune_rate)
    with PretendDevice():
        got = rewire(there, recipe, prune_rate)
        moved = {name: (got.survivors[name].cpu(), mask.cpu()) for name, mask in got.masks.items()}
        assert all(mask.device == DEVICE for mask in got.masks.values())
    assert [(c.pruned, c.grown) for c in got.changes] == [(c.pruned, c.grown) for c in expected.changes]
    for name, (survivors, mask) in moved.items():
        assert torch.equal(survivors, expected.survivors[name])
        assert torch.equal(mask, expected.masks[name])


@pytest.mark.parametrize("kind", ["weight", "momentum"])
def test_what_is_not_finite_on_a_device_is_reported_with_its_layer(kind: str) -> None:
    layers = network([(6, 9), (5, 6)])
    getattr(layers[1], kind)[layers[1].mask] = float("nan")
    with PretendDevice(), pytest.raises(NonFiniteError, match=f"in the {kind} of layer 'layer1'"):
        rewire(on_device(layers), RECIPES["sparse_momentum"], 0.5)


@pytest.mark.parametrize("place", ["host", "device"])
def test_nan_momentum_that_no_claim_and_no_growth_depends_on_is_ignored_everywhere(place: str) -> None:
    # The first layer has no claim to speak of, so it grows nothing; what is NaN there is inactive.
    layers = [random_layer("still", active=20, seed=1), random_layer("growing", active=20, seed=2)]
    assert layers[0].momentum is not None
    momentum = layers[0].momentum * 1e-9
    momentum[tuple(torch.nonzero(~layers[0].mask)[0])] = float("nan")
    layers[0] = replace(layers[0], momentum=momentum)
    with PretendDevice():
        views = layers if place == "host" else on_device(layers)
        changes = rewire(views, RECIPES["sparse_momentum"], 0.2).changes
    assert changes[0].grown == 0
