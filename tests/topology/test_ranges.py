"""Minima and maxima over all parts of a weight are those of the whole weight, to the last bit, whatever the backend."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from split_weights import Group, successes

from lightning_sparse.topology.reduction import extremes, join_ranges, mean_magnitude
from lightning_sparse.topology.sharding import Shard

INF, NAN = math.inf, math.nan
numbers = st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, INF, -INF, 5e-324, -5e-324])


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Return the range over all parts, after a check that each of them has the same."""
    group = Group(len(parts))
    shard = Shard((100,), (0,), group.all_reduce, group.all_reduce_max)
    ranges = successes(group.run(lambda part: join_ranges([extremes(parts[part])], [shard])[0]))
    assert all(torch.equal(each.view(torch.int64), ranges[0].view(torch.int64)) for each in ranges)
    return ranges[0]


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.lists(numbers, max_size=4), min_size=1, max_size=4).filter(any))
def test_the_range_over_all_parts_is_that_of_the_whole(parts: list[list[float]]) -> None:
    tensors = [torch.tensor(part, dtype=torch.float64) for part in parts]
    assert torch.equal(joined(tensors), extremes(torch.cat(tensors)))


# Of either sign: zero by zero is a negative NaN on some processors.
@pytest.mark.parametrize("nan", [NAN, -NAN])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_in_one_part_is_the_maximum_over_all_parts(nan: float, place: int) -> None:
    parts = [torch.tensor([1.0, INF]), torch.tensor([-INF]), torch.tensor([2.0])]
    parts[place][0] = nan
    assert joined(parts)[1].isnan()
    assert extremes(torch.cat(parts)).isnan().all()


def test_parts_that_are_all_nan_have_nan_as_minimum_too() -> None:
    assert joined([torch.tensor([NAN]), torch.tensor([-NAN])]).isnan().all()


def test_the_range_of_a_whole_weight_stays_as_it_is() -> None:
    row = torch.tensor([NAN, 3.0])
    assert join_ranges([row], [None])[0] is row


@pytest.mark.parametrize("exponent", [-3, -2, 0, 1, 10, 11])
def test_the_mean_magnitude_of_a_part_is_rounded_like_that_of_the_whole(exponent: int) -> None:
    rng = torch.Generator().manual_seed(exponent + 3)
    values = (1 + torch.rand(32, 32, generator=rng, dtype=torch.float64)) * 2.0**exponent
    mask = torch.rand(32, 32, generator=rng) < 0.5
    whole = Shard((32, 32), (0, 0), torch.clone, torch.clone)
    assert torch.equal(mean_magnitude(values, mask, whole), mean_magnitude(values, mask))


def test_the_mean_magnitude_of_one_weight_is_its_magnitude_and_of_none_zero() -> None:
    values = torch.tensor([3.0, -0.75, 5.0])
    assert mean_magnitude(values, torch.tensor([False, True, False])).item() == 0.75
    assert mean_magnitude(values, torch.zeros(3, dtype=torch.bool)).item() == 0
