"""Changes of layout are exact, for every shape and instruction set."""

from __future__ import annotations

import pytest
import torch
from sparse_rows import filled, needs_kernels, random, runnable

from lightning_sparse.execution.kernels import kernels, sizes_of
from lightning_sparse.topology.packing import pack_mask

pytestmark = needs_kernels
VARIANTS = [*runnable(), "reference"]


def padded(batch: int) -> int:
    return -(-batch // 16) * 16


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch", [1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 100])
@pytest.mark.parametrize("features", [1, 5, 16, 19, 64])
def test_a_batch_becomes_feature_major_and_comes_back(variant: str, batch: int, features: int) -> None:
    examples, given = padded(batch), random(batch, features)
    found, back = filled(features, examples), filled(batch, features)
    kernels(variant)("to_features", given, found, sizes=sizes_of(batch, features, examples))
    assert torch.equal(found[:, :batch], given.T)
    assert not found[:, batch:].any()
    kernels(variant)("from_features", found, back, sizes=sizes_of(batch, features, examples))
    assert torch.equal(back, given)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 5, 7), (16, 3, 4, 4), (17, 2, 1, 16), (40, 1, 9, 17)])
@pytest.mark.parametrize("halo", [0, 1, 3])
def test_maps_come_into_lanes_and_back(variant: str, shape: tuple[int, ...], halo: int) -> None:
    batch, channels, height, width = shape
    given, back = random(*shape), filled(*shape)
    lanes = filled(padded(batch) // 16, channels, height + 2 * halo, width + 2 * halo, 16)
    kernels(variant)("to_lanes", given, lanes, sizes=sizes_of(*shape, halo))
    inner = lanes[:, :, halo : halo + height, halo : halo + width]
    images = inner.permute(0, 4, 1, 2, 3).reshape(-1, channels, height, width)
    assert torch.equal(images[:batch], given)
    assert not images[batch:].any()
    assert int(lanes.isnan().sum()) == lanes.numel() - inner.numel()  # a halo is left as it is
    kernels(variant)("from_lanes", lanes, back, sizes=sizes_of(*shape, halo))
    assert torch.equal(back, given)


@pytest.mark.parametrize("variant", VARIANTS)
def test_values_are_gathered_from_a_weight_and_scattered_into_one(variant: str) -> None:
    weight, places = random(50), torch.randperm(50, generator=torch.Generator().manual_seed(0))[:23].int()
    values, back = filled(23), torch.zeros(50)
    kernels(variant)("gather", weight, places, values, sizes=sizes_of(23))
    assert torch.equal(values, weight[places.long()])
    kernels(variant)("scatter", values, places, back, sizes=sizes_of(23))
    assert torch.equal(back.nonzero().view(-1), places.long().sort().values)
    assert torch.equal(back[places.long()], values)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("count", [1, 7, 8, 15, 16, 17, 31, 32, 33, 100, 1000])
def test_weights_are_masked_by_bits(variant: str, count: int) -> None:
    weight, mask = random(count), random(count, seed=2) > 0.5
    weight[::3] = float("nan")
    expected = torch.where(mask, weight, 0.0)
    kernels(variant)("apply_mask", weight, pack_mask(mask), sizes=sizes_of(count))
    assert torch.equal(weight.isnan(), expected.isnan())
    assert torch.equal(weight.nan_to_num(7), expected.nan_to_num(7))
