"""The running mean is exact, and resumes where it was saved."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_sparse.models.running_mean import RunningMean

VALUES = st.lists(st.tuples(st.integers(-100, 100), st.integers(1, 50)), min_size=1, max_size=10)


def mean_of(values: list[tuple[int, int]]) -> RunningMean:
    mean = RunningMean()
    for value, weight in values:
        mean.add(torch.tensor(float(value)), weight)
    return mean


@given(VALUES)
def test_equals_the_weighted_mean(values: list[tuple[int, int]]) -> None:
    expected = sum(value * weight for value, weight in values) / sum(weight for _, weight in values)
    assert mean_of(values).compute().item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(VALUES, VALUES)
def test_a_restored_mean_continues(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> None:
    restored = RunningMean()
    restored.load_state_dict(mean_of(before).state_dict())
    assert restored.compute() == mean_of(before).compute()
    for value, weight in after:
        restored.add(torch.tensor(float(value)), weight)
    assert restored.compute() == mean_of(before + after).compute()


def test_reset_forgets_everything() -> None:
    mean = mean_of([(5, 2)])
    mean.reset()
    mean.add(torch.tensor(1.0), 1)
    assert mean.compute().item() == 1.0


def test_reset_forgets_what_was_restored() -> None:
    mean = RunningMean()
    mean.load_state_dict({"total": 9.0, "weight": 3})
    mean.reset()
    mean.add(torch.tensor(1.0), 1)
    assert mean.compute().item() == 1.0


def test_no_value_has_no_mean() -> None:
    with pytest.raises(RuntimeError, match="Expected at least one value"):
        RunningMean().compute()


def test_the_state_is_made_of_plain_numbers() -> None:
    assert mean_of([(5, 2), (2, 1)]).state_dict() == {"total": 12.0, "weight": 3}
    assert RunningMean().state_dict() == {"total": 0.0, "weight": 0}
