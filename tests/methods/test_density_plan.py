"""Densities that change are what their formulas say at every boundary of a run, whatever the periods."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sparse.methods.counters import Counters
from lightning_sparse.methods.density_plan import DensityPlan
from lightning_sparse.methods.density_schedule import DensitySchedule
from lightning_sparse.methods.history import UpdateRecord
from lightning_sparse.methods.planned_updates import plan_timetable
from lightning_sparse.methods.timetable import Cadence, Due, Position, RunLength, Timetable
from lightning_sparse.topology.schedule import PruneRate
from lightning_sparse.validation.errors import InvalidValueError

small = st.integers(1, 6)


def play(timetable: Timetable, epochs: int, per_epoch: int, resume_at: int = 0) -> list[tuple[Position, Due]]:
    """Return what is due at which positions of a run; it may be interrupted, and resumed from what was recorded."""
    counters, done = Counters(), []
    for step in range(epochs * per_epoch):
        if step in (0, resume_at):  # all that a checkpoint has
            counters = Counters.from_dict(counters.to_dict())
            timetable = Timetable(timetable.cadence, timetable.rate, timetable.densities, timetable.moves)
            plan_timetable(timetable, RunLength(epochs, inf, per_epoch), counters)
            settle(timetable)
        now = (step // per_epoch, step)
        due = timetable.due(now, counters) if step > counters.last[1] else None
        if due is not None:
            counters.history.append(UpdateRecord(*now, due.prune_rate, {}))
            counters.last = now
            done.append((now, due))
    return done


def settle(timetable: Timetable) -> None:
    """Do what a run does at its second batch: the network has the densities that it should have."""
    if timetable.densities is not None:
        timetable.densities.is_settled = True


def timetable(density: Any, moves: bool = True, **cadence: int) -> Timetable:
    return Timetable(
        Cadence(**(cadence or {"every_n_epochs": 1})), PruneRate(0.5, "linear"), DensityPlan(density), moves
    )


@given(
    period=small,
    in_steps=st.booleans(),
    epochs=small,
    per_epoch=small,
    begin=st.floats(0, 0.5),
    end=st.floats(0.5, 1),
    resume=st.integers(0, 30),
)
def test_every_change_has_the_density_of_the_formula_and_the_last_is_the_final_one(
    period: int, in_steps: bool, epochs: int, per_epoch: int, begin: float, end: float, resume: int
) -> None:
    options = {"every_n_steps" if in_steps else "every_n_epochs": period}
    schedule = DensitySchedule(0.1, 0.8, "cubic", begin=begin, end=end, **options)
    updates = play(timetable(schedule, moves=False), epochs, per_epoch, resume)
    length = epochs * per_epoch if in_steps else epochs
    first, last = begin * length, min(end * length, length - 1) // period * period
    expected: list[float] = []
    for count in range(period, int(length), period):
        part = 1.0 if count >= last else 0.0 if count <= first else (count - first) / (last - first)
        density = 0.1 if part == 1 else 0.1 + 0.7 * (1 - part) ** 3
        expected += [density] if density != (expected[-1] if expected else 0.8) and part > 0 else []
    assert [due.density for _, due in updates] == pytest.approx(expected)
    assert all(due.prune_rate == 0 for _, due in updates)
    assert not updates or updates[-1][1].density == 0.1 or last < period


def test_a_schedule_in_steps_has_its_densities_at_the_steps_that_were_asked_for() -> None:
    schedule = DensitySchedule(0.1, shape="linear", every_n_steps=3, begin=2, end=10)
    updates = play(timetable(schedule, moves=False), epochs=1, per_epoch=20)
    assert [(now[1], due.density) for now, due in updates] == [
        (3, pytest.approx(1 - 0.9 / 7)),
        (6, pytest.approx(1 - 4 * 0.9 / 7)),
        (9, 0.1),
    ]


def test_what_is_due_at_the_same_batch_is_one_update() -> None:
    schedule = DensitySchedule(0.2, shape="linear", every_n_epochs=2)
    updates = play(timetable(schedule), epochs=6, per_epoch=4)
    assert [(now, due.prune_rate, due.density) for now, due in updates] == [
        ((1, 4), 0.5, None),
        ((2, 8), 0.375, pytest.approx(0.6)),
        ((3, 12), 0.25, None),
        ((4, 16), 0.125, 0.2),
        ((5, 20), 0.0, None),
    ]


def test_changes_between_updates_do_not_count_as_updates_of_the_prune_rate() -> None:
    schedule = DensitySchedule(0.2, every_n_steps=3)
    with_changes = [due.prune_rate for _, due in play(timetable(schedule), 5, 4) if due.prune_rate]
    without = Timetable(Cadence(1), PruneRate(0.5, "linear"))
    assert with_changes == [due.prune_rate for _, due in play(without, 5, 4) if due.prune_rate] != []


def test_groups_with_a_schedule_keep_their_densities_in_every_update() -> None:
    plan = {"encoder.*": DensitySchedule(0.1, 0.5, "linear", every_n_epochs=2), "*": 0.3}
    updates = play(timetable(plan), epochs=4, per_epoch=2)
    assert [due.density for _, due in updates] == [
        {"encoder.*": 0.5, "*": 0.3},
        {"encoder.*": 0.1, "*": 0.3},
        {"encoder.*": 0.1, "*": 0.3},
    ]


@pytest.mark.parametrize("schedule", [DensitySchedule(0.2, every_n_steps=3), DensitySchedule(0.2, every_n_epochs=2)])
def test_nothing_is_missed_where_batches_wait_for_the_next_boundary(schedule: DensitySchedule) -> None:
    table, counters, early = timetable(schedule), Counters(), []
    plan_timetable(table, RunLength(6, inf, 4), counters)
    settle(table)
    for step in range(24):
        now = (step // 4, step)
        due = table.due(now, counters) if step > counters.last[1] else None
        if due is not None:
            early += [now] if now[0] < table.next_boundary(counters.last) else []
            counters.history.append(UpdateRecord(*now, due.prune_rate, {}))
            counters.last = now
    assert early == []
    assert len(counters.history) >= 5


@pytest.mark.parametrize(
    ("schedule", "length", "sentence"),
    [
        (DensitySchedule(0.1), (5, inf, 3), "1 to 0.1, one change after every epoch, from epoch 1 to 4."),
        (
            DensitySchedule(0.1, every_n_steps=100, begin=50, end=0.5),
            (20, inf, 100),
            "1 to 0.1, one change after every 100 steps, from step 100 to 1,000.",
        ),
        (
            DensitySchedule(0.1, 0.5, end=3),
            (inf, inf, 3),
            "0.5 to 0.1, one change after every epoch, from epoch 1 to 3.",
        ),
        (DensitySchedule(0.1), (1, inf, 3), "1 to 0.1, one change after every epoch, but the run ends with epoch 1."),
    ],
)
def test_a_run_says_which_densities_it_plans(schedule: DensitySchedule, length: Any, sentence: str) -> None:
    plan = DensityPlan(schedule)
    plan.plan(RunLength(*length))
    assert [*plan.sentences(RunLength(*length))] == [f"Planned density: {sentence}"]


@pytest.mark.parametrize(
    ("options", "length", "complains"),
    [
        ({}, (5, inf, 3), False),
        ({}, (1, inf, 3), True),
        ({"end": 4}, (5, inf, 3), False),
        ({"end": 5}, (5, inf, 3), True),
        ({"end": 5, "initial": 0.1}, (5, inf, 3), False),
        ({"end": 9, "every_n_steps": 2}, (inf, inf, inf), False),
    ],
)
def test_a_final_density_out_of_reach_is_complained_of(options: Any, length: Any, complains: bool) -> None:
    plan = DensityPlan(DensitySchedule(0.1, **options))
    plan.plan(RunLength(*length))
    assert bool([*plan.complaints(RunLength(*length))]) is complains


def test_a_schedule_that_follows_an_endless_run_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="known length for a density"):
        DensityPlan(DensitySchedule(0.1)).plan(RunLength(inf, inf, 3))
    DensityPlan(DensitySchedule(0.1, end=5)).plan(RunLength(inf, inf, 3))


@pytest.mark.parametrize("position", [-1, 1.5, -0.1, True, "end", None, float("nan")])
@pytest.mark.parametrize("which", ["begin", "end"])
def test_what_is_no_position_is_refused(which: str, position: Any) -> None:
    with pytest.raises(InvalidValueError, match=f"{which} as a number of epochs or steps"):
        DensitySchedule(0.1, **{which: position})
