"""What several test modules of this directory build their layers with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from hypothesis import strategies as st
from torch import Tensor

from lightning_sparse.topology import LayerView, Rewiring

SHAPES = [(1, 1), (1, 5), (4, 1), (3, 4), (6, 9), (2, 3, 3, 3), (5, 2, 1, 1), (2, 2, 4)]


def random_layer(
    name: str = "layer",
    shape: Sequence[int] = (6, 10),
    active: int = 20,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LayerView:
    """Return a layer with normal weights, momentum and gradient of which `active` weights are active.

    The seed says how many multiplications each of them costs, from 1 to 25.
    """
    rng = torch.Generator().manual_seed(seed)
    weight, momentum, gradient = (torch.randn(tuple(shape), generator=rng, dtype=torch.float64) for _ in range(3))
    mask = (torch.randperm(weight.numel(), generator=rng) < active).view(weight.shape)
    return LayerView(
        name,
        weight=(weight * mask).to(dtype),
        mask=mask,
        generator=torch.Generator().manual_seed(seed),
        momentum=momentum.to(dtype),
        gradient=gradient.to(dtype),
        others={"multiplications": torch.tensor((1 + seed % 5) ** 2, dtype=torch.float64)},
    )


def network(shapes: Sequence[Sequence[int]], density: float = 0.3, seed: int = 0) -> list[LayerView]:
    """Return random layers that draw from one generator, as the layers of one network do."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for i, shape in enumerate(shapes):
        active = round(density * torch.Size(shape).numel())
        layers.append(replace(random_layer(f"layer{i}", shape, active, seed + i), generator=generator))
    return layers


@st.composite
def networks(draw: st.DrawFn) -> list[LayerView]:
    """Draw one to six layers, from empty to dense."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    layers = []
    for i, shape in enumerate(draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=6))):
        size = torch.Size(shape).numel()
        active = draw(st.sampled_from([0, 1, size - 1, size]) | st.integers(0, size))
        layer = random_layer(f"layer{i}", shape, active, seed=draw(st.integers(0, 2**31)))
        layers.append(replace(layer, generator=generator))
    return layers


def builders(layers: Sequence[LayerView]) -> list[Callable[[], LayerView]]:
    """Return functions that return the layers."""
    return [partial(layers.__getitem__, index) for index in range(len(layers))]


def total_active(masks: dict[str, Tensor]) -> int:
    """Return the number of active weights of all layers."""
    return sum(int(mask.sum()) for mask in masks.values())


def values_after(layer: LayerView, rewiring: Rewiring[Tensor]) -> Tensor:
    """Return the weight of a layer as an update leaves it."""
    return layer.weight * rewiring.survivors[layer.name]
