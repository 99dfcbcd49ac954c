from __future__ import annotations

from math import inf, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_sparse.topology.schedule import SCHEDULES, PruneRate, constant, cosine, linear

PROGRESS = st.floats(0, 1)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_begins_with_the_full_prune_rate(name: str) -> None:
    assert SCHEDULES[name](0.0) == 1.0


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_decay_ends_at_exactly_zero(schedule: object) -> None:
    assert callable(schedule)
    assert schedule(1.0) == 0.0


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@settings(max_examples=50, deadline=None)
@given(earlier=PROGRESS, later=PROGRESS)
def test_prune_rates_stay_fractions_and_never_rise(name: str, earlier: float, later: float) -> None:
    earlier, later = sorted((earlier, later))
    assert 0 <= SCHEDULES[name](later) <= SCHEDULES[name](earlier) <= 1


def test_schedules_have_the_values_of_their_formulas() -> None:
    assert constant(0.7) == 1.0
    assert linear(0.3) == pytest.approx(0.7)
    assert [cosine(progress) for progress in (0.25, 0.5, 0.75)] == pytest.approx(
        [(2 + sqrt(2)) / 4, 0.5, (2 - sqrt(2)) / 4]
    )


def progress(update: int, total: float) -> float:
    return PruneRate(1.0, lambda progress: progress).at(update, total)


@given(total=st.integers(2, 50))
def test_progress_runs_from_0_to_1_in_equal_steps(total: int) -> None:
    values = [progress(update, total) for update in range(total)]
    assert values[0] == 0
    assert values[-1] == 1
    assert values == pytest.approx([update / (total - 1) for update in range(total)])
    assert progress(total + 3, total) == 1


def test_there_is_no_progress_without_an_end_or_with_one_update() -> None:
    assert [progress(5, inf), progress(0, 1), progress(0, 0)] == [0, 0, 0]
