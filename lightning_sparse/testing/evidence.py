"""Seeded layers as arguments of rules: tiny, empty, saturated, linear and convolutional."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from lightning_sparse.topology.layer import MULTIPLICATIONS, LayerView
from lightning_sparse.topology.rewire import Rewiring

SHAPES = ((1, 1), (1, 5), (4, 3), (3, 2, 2, 2))
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def layers(dtype: torch.dtype = torch.float32) -> Iterator[LayerView]:
    """Yield layers with no, one, some and all weights active; with normal, equal, large and zero values.

    All calls yield the same layers. Their names describe them in messages.
    """
    for shape in SHAPES:
        size = prod(shape)
        for active in sorted({0, 1, (size + 1) // 2, size}):
            plain = layer(f"{tuple(shape)}, {active} active", shape, active, seed=size + active)
            for kind, factor, shift in _kinds(dtype):
                yield _revalued(plain, kind, factor, shift, dtype)


def _kinds(dtype: torch.dtype) -> list[tuple[str, float, float]]:
    # Squares of the large values still fit, except in half precision: scores and claims need a wider type there.
    large = min(1e15, torch.finfo(dtype).max / 16)
    return [("normal", 1.0, 0.0), ("all zero", 0.0, 0.0), ("equal", 0.0, 1.0), ("large", large, 0.0)]


def _revalued(plain: LayerView, kind: str, factor: float, shift: float, dtype: torch.dtype) -> LayerView:
    def revalued(values: Tensor | None) -> Tensor:
        # Clamped, so that the tail of the normal distribution doesn't exceed the dtype's largest number.
        return (torch.zeros(1) if values is None else values.clamp(-4, 4) * factor + shift).to(dtype)

    return replace(
        plain,
        name=f"{plain.name}, {kind} {str(dtype).removeprefix('torch.')} values",
        weight=revalued(plain.weight) * plain.mask,
        momentum=revalued(plain.momentum),
        gradient=revalued(plain.gradient),
    )


def layer(name: str, shape: Sequence[int], active: int, seed: int) -> LayerView:
    """Return a layer with normal weights, momentum and gradient, of which `active` weights are active.

    A weight costs from 1 to 25 multiplications per example, as the seed says.
    """
    source = torch.Generator().manual_seed(seed)
    weight, momentum, gradient = (torch.randn(tuple(shape), generator=source) for _ in range(3))
    mask = (torch.randperm(weight.numel(), generator=source) < active).view(weight.shape)
    generator = torch.Generator().manual_seed(seed)
    others = {MULTIPLICATIONS: torch.tensor((1 + seed % 5) ** 2, dtype=torch.float64)}
    return LayerView(name, weight * mask, mask, generator, momentum=momentum, gradient=gradient, others=others)


def network() -> list[LayerView]:
    """Return layers of one network, from empty to full, that share one generator."""
    sizes: list[tuple[Sequence[int], int]] = [
        ((6, 5), 9),
        ((2, 3, 3, 3), 5),
        ((1, 1), 1),
        ((3, 3), 9),
        ((4, 2), 1),
        ((1, 5), 0),
        ((5, 1, 2), 9),
    ]
    generator = torch.Generator().manual_seed(0)
    return [
        replace(layer(f"layer {index}, {tuple(shape)}", shape, active, seed=index), generator=generator)
        for index, (shape, active) in enumerate(sizes)
    ]


def after(before: LayerView, rewiring: Rewiring[Tensor], seed: int) -> LayerView:
    """Return a layer after an update and some training."""
    source = torch.Generator().manual_seed(seed)
    mask = rewiring.masks[before.name]
    noise = torch.randn(mask.shape, generator=source)
    weight = (before.weight * rewiring.survivors[before.name] + 0.1 * noise) * mask
    momentum, gradient = (torch.randn(mask.shape, generator=source) for _ in range(2))
    return replace(before, weight=weight, mask=mask, momentum=momentum, gradient=gradient)


def evidence_of(view: LayerView) -> dict[str, Tensor | None]:
    """Return the tensors of a layer by name."""
    return {kind: getattr(view, kind) for kind in ("weight", "mask", "momentum", "gradient")}
