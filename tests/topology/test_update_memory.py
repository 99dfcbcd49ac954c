"""The memory of an update is that of its largest layer, however many layers there are."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from memory_meter import MemoryMeter
from topology_helpers import network, random_layer

from lightning_sparse import SparseNetwork
from lightning_sparse.topology import RECIPES, LayerView, Recipe, rewire
from lightning_sparse.topology.packing import pack_mask
from lightning_sparse.topology.rewire import rewire_into

# Large enough for what Python needs to hold counts, claims and names to be small against it.
SHAPE = (256, 512)
LAYER = 256 * 512 * 4  # bytes of one weight
VIEW = 3.25 * LAYER  # weight, momentum, gradient and a bool mask
# Two masks of one bit per weight remain of every layer.
PACKED = 2 * 256 * 512 // 8
SMALL = 0.3 * LAYER

# Beyond the view itself: scores, masks, and what selecting from them takes. Sorting (indices of 8 bytes) takes more.
WORKING = {"sparse_momentum": 3.0, "set": 3.0, "rigl": 3.0, "set_original": 12.0, "static": 0.5}
WORKING = {**dict.fromkeys(RECIPES, 3.0), **WORKING}  # what a recipe that is added may take, too


def builders(layer: LayerView, number: int) -> list[Callable[[], LayerView]]:
    """Return functions that copy one layer."""

    def build(index: int) -> LayerView:
        assert layer.momentum is not None
        assert layer.gradient is not None
        copies = [each.clone() for each in (layer.weight, layer.mask, layer.momentum, layer.gradient)]
        return LayerView(f"layer{index}", copies[0], copies[1], layer.generator, copies[2], copies[3])

    return [partial(build, index) for index in range(number)]


def peak(run: Callable[[], object]) -> int:
    with MemoryMeter() as meter:
        result = run()
    del result  # it counts: masks accumulate in it
    return meter.peak


def test_the_meter_sees_torch_and_numpy_memory_in_use_at_the_same_time() -> None:
    def two_in_torch_then_three_in_both() -> None:
        first = torch.zeros(SHAPE)
        second = first + 1
        del second
        array = np.ones(SHAPE, dtype=np.float32)
        doubled = array * 2
        torch.from_numpy(doubled).view(-1)

    assert peak(two_in_torch_then_three_in_both) / LAYER == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_thirty_layers_take_as_much_memory_as_one_and_their_packed_masks(name: str) -> None:
    layer = random_layer(shape=SHAPE, active=13_000)
    one, thirty = (
        peak(partial(rewire_into, builders(layer, number), RECIPES[name], 0.5, store=pack_mask)) for number in (1, 30)
    )
    assert one < VIEW + WORKING[name] * LAYER
    assert thirty < one + 30 * PACKED + SMALL


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_network_of_thirty_layers_is_rewired_in_the_memory_of_a_few(name: str) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(512, 256, bias=False) for _ in range(30)))
    network = SparseNetwork(model, 0.1, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    network.attach(optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()
    # Weights, momenta and gradients exist anyway, a view adds its bool mask; masks are unpacked and applied one by one.
    allowed = max(0.5 + WORKING[name], 1.5) * LAYER + 30 * PACKED + SMALL
    assert peak(partial(network.rewire, RECIPES[name], 0.5)) < allowed


class LazyLayers(Sequence[LayerView]):
    """Layers that are built at each access."""

    def __init__(self, build: Callable[[int], LayerView], number: int) -> None:
        self._build, self._number = build, number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: Any) -> Any:
        return self._build(index)


@pytest.mark.parametrize("recipe", [RECIPES[name] for name in sorted(RECIPES)], ids=sorted(RECIPES))
def test_an_update_never_holds_the_views_of_two_layers(recipe: Recipe) -> None:
    layers = network([(8, 9), (5, 6), (3, 4), (2, 2)])
    references: list[weakref.ref[LayerView]] = []
    most = 0

    def build(index: int) -> LayerView:
        nonlocal most
        view = LayerView(**vars(layers[index]))
        references.append(weakref.ref(view))
        most = max(most, sum(reference() is not None for reference in references))
        return view

    rewire(LazyLayers(build, len(layers)), recipe, 0.5)
    assert len(references) >= 2 * len(layers)
    assert most == 1
