"""Boundaries and how many of them a run has: arithmetic, against a run played through."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sparse.methods.timetable import Cadence, RunLength

small = st.integers(1, 12)


def play(cadence: Cadence, steps_per_epoch: int, steps: int, first: int = 0) -> list[tuple[int, int]]:
    """Return completed epochs and steps at each update of a fit: one is looked for before every step."""
    last = first // steps_per_epoch, first
    updates = []
    for step in range(first, steps):
        now = step // steps_per_epoch, step
        if now[0 if cadence.counts_epochs else 1] >= cadence.next_boundary(last):
            updates.append(now)
            last = now
    return updates


@given(period=small, steps_per_epoch=small, epochs=small, first=st.integers(0, 6))
def test_updates_in_epochs_are_as_many_as_foreseen(period: int, steps_per_epoch: int, epochs: int, first: int) -> None:
    cadence = Cadence(every_n_epochs=period, every_n_steps=None)
    updates = play(cadence, steps_per_epoch, steps_per_epoch * epochs, steps_per_epoch * first)
    assert [epoch for epoch, _ in updates] == [epoch for epoch in range(period, epochs, period) if epoch > first]
    for per_epoch in (steps_per_epoch, inf):
        assert len(updates) == cadence.boundaries(RunLength(epochs, inf, per_epoch), (first, -1))


@given(period=small, steps_per_epoch=small, epochs=small, steps=st.integers(1, 60))
def test_updates_in_epochs_of_a_run_limited_by_steps_are_as_many_as_foreseen(
    period: int, steps_per_epoch: int, epochs: int, steps: int
) -> None:
    cadence = Cadence(every_n_epochs=period, every_n_steps=None)
    updates = play(cadence, steps_per_epoch, min(steps, epochs * steps_per_epoch))
    assert len(updates) == cadence.boundaries(RunLength(epochs, steps, steps_per_epoch), (0, 0))


@given(period=small, steps_per_epoch=small, epochs=small, steps=st.integers(1, 60), first=st.integers(0, 20))
def test_updates_in_steps_are_as_many_as_foreseen(
    period: int, steps_per_epoch: int, epochs: int, steps: int, first: int
) -> None:
    cadence, end = Cadence(every_n_epochs=None, every_n_steps=period), min(steps, epochs * steps_per_epoch)
    updates = play(cadence, steps_per_epoch, end, first)
    assert [step for _, step in updates] == [step for step in range(period, end, period) if step > first]
    assert len(updates) == cadence.boundaries(RunLength(epochs, steps, steps_per_epoch), (-1, first))
    assert len(updates) == cadence.boundaries(RunLength(inf, end, inf), (-1, first))


def test_the_next_boundary_is_the_first_multiple_of_the_period_after_a_position() -> None:
    in_steps, in_epochs = Cadence(every_n_steps=10), Cadence(every_n_epochs=3)
    assert [in_steps.next_boundary((7, step)) for step in (0, 9, 10, 19, 20)] == [10, 10, 20, 20, 30]
    assert [in_epochs.next_boundary((epoch, 7)) for epoch in (0, 2, 3)] == [3, 3, 6]


@pytest.mark.parametrize(
    ("cadence", "length"),
    [
        (Cadence(None, 10), RunLength(inf, inf, 5)),
        (Cadence(None, 10), RunLength(5, inf, inf)),
        (Cadence(1, None), RunLength(inf, inf, 5)),
        (Cadence(1, None), RunLength(inf, 100, inf)),
        (Cadence(1, None), RunLength(10, 100, inf)),
    ],
    ids=str,
)
def test_of_a_run_of_unknown_length_the_updates_are_not_known(cadence: Cadence, length: RunLength) -> None:
    assert cadence.boundaries(length, (0, 0)) == inf


@pytest.mark.parametrize(("epochs", "steps"), [(None, None), (1, 1), (0, None), (None, -1), (1.0, None), (True, None)])
def test_a_period_that_is_none_or_two_or_no_positive_integer_is_refused(epochs: int | None, steps: int | None) -> None:
    with pytest.raises(ValueError, match=r"Expected .* period .*got"):
        Cadence(epochs, steps)
