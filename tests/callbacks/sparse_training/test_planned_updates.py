"""What a run says of its updates before it has them is what happens, and what is hardly meant is warned of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import LearningRateFinder
from tiny_training import EndsByItself, ShufflingLoader, TinyModule, fit, saving_at, stream

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.callbacks.sparse_training.planned_updates import plan_updates
from lightning_sparse.methods.counters import Counters
from lightning_sparse.methods.planned_updates import PlannedUpdates
from lightning_sparse.methods.timetable import Cadence, RunLength, Timetable
from lightning_sparse.topology.schedule import PruneRate
from lightning_sparse.validation.representation import short_text

NONE = "at least one topology update"
FEW_STEPS = "more optimizer steps between"
JUMP = "a prune rate that decays"
EVERYTHING = "a prune rate below 1"
KINDS = (NONE, FEW_STEPS, JUMP, EVERYTHING)


def planned(
    epochs: float = 5, steps: float = inf, per_epoch: float = 3, schedule: Any = "linear", **options: Any
) -> PlannedUpdates:
    cadence = Cadence(**options.pop("period", {"every_n_epochs": 1}))
    rate = PruneRate(options.pop("prune_rate", 0.5), schedule)
    return PlannedUpdates(cadence, RunLength(epochs, steps, per_epoch), options.pop("first", (0, 0)), rate, **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "4, one after every epoch, from epoch 1 to 4; prune rate 0.5 to 0."),
        ({"epochs": 2}, "1, after epoch 1; prune rate 0.5."),
        ({"schedule": "constant"}, "4, one after every epoch, from epoch 1 to 4; prune rate 0.5."),
        (
            {"epochs": 10, "period": {"every_n_epochs": 3}},
            "3, one after every 3 epochs, from epoch 3 to 9; prune rate 0.5 to 0.",
        ),
        (
            {"epochs": 2000, "period": {"every_n_steps": 100}},
            "59, one after every 100 steps, from step 100 to 5,900; prune rate 0.5 to 0.",
        ),
        ({"period": {"every_n_steps": 8}}, "1, after step 8; prune rate 0.5."),
        ({"first": (2, 6)}, "2, one after every epoch, from epoch 3 to 4; prune rate 0.5 to 0."),
        (
            {"done": (0.5, 0.33)},
            "4, one after every epoch, from epoch 1 to 4; prune rate 0.167 to 0; done are 2.",
        ),
        ({"done": (0.5, 0.3, 0.2, 0.0)}, "4, one after every epoch, from epoch 1 to 4; prune rate 0; done are 4."),
        (
            {"epochs": inf, "schedule": "constant"},
            "one after every epoch, first after epoch 1, for as long as the run lasts; prune rate 0.5.",
        ),
        (
            {
                "per_epoch": inf,
                "schedule": "constant",
                "period": {"every_n_steps": 7},
                "first": (1, 20),
                "done": (0.5,),
            },
            "one after every 7 steps, first after step 21, for as long as the run lasts; prune rate 0.5; done are 1.",
        ),
        ({"epochs": 1}, "none, as the run ends with epoch 1."),
        ({"period": {"every_n_steps": 15}}, "none, as the run ends with step 15."),
        ({"moves": False}, "none, as the recipe moves no weights."),
        ({"moves": False, "epochs": inf}, "none, as the recipe moves no weights."),
        ({"prune_rate": 0.0}, "none, as the prune rate is 0."),
    ],
    ids=short_text,
)
def test_the_sentence_says_how_many_when_and_which_prune_rates(options: dict[str, Any], sentence: str) -> None:
    assert planned(**options).sentence() == f"Planned topology updates: {sentence}"


def complaints(make: Callable[[], object]) -> list[str]:
    """Return the kinds of warnings about planned updates while something is made, in order."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return [kind for each in caught for kind in KINDS if kind in str(each.message)]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, []),
        ({"epochs": 1}, [NONE]),
        ({"epochs": 5, "period": {"every_n_epochs": 5}}, [NONE]),
        ({"epochs": 6, "period": {"every_n_epochs": 5}}, []),
        ({"period": {"every_n_steps": 15}}, [NONE]),
        ({"period": {"every_n_steps": 14}}, []),
        ({"steps": 100, "period": {"every_n_steps": 500}}, [NONE]),
        ({"epochs": inf, "schedule": "constant"}, []),
        ({"per_epoch": 1}, [FEW_STEPS]),
        ({"per_epoch": 2}, [FEW_STEPS]),
        ({"per_epoch": 1, "period": {"every_n_epochs": 2}}, [FEW_STEPS]),
        ({"per_epoch": 1, "period": {"every_n_epochs": 3}}, []),
        ({"per_epoch": 1, "period": {"every_n_steps": 1}}, []),  # as asked for
        ({"per_epoch": inf}, []),
        ({"prune_rate": 1.0}, [EVERYTHING]),
        ({"prune_rate": 0.99}, []),
        ({"prune_rate": 1.0, "per_epoch": 1}, [FEW_STEPS, EVERYTHING]),
        ({"prune_rate": 1.0, "schedule": lambda progress: 0.5 + 0 * progress}, []),
        ({"prune_rate": 1.0, "epochs": 1}, [NONE]),
        # The plan as it was, extended, shortened, with another rate or schedule, and a schedule that rises by itself.
        ({"epochs": 5, "done": (0.5, 0.5 * 2 / 3)}, []),
        ({"epochs": 9, "done": (0.5, 0.25, 0.0)}, [JUMP]),
        ({"epochs": 9, "done": (0.5, 0.5 * 2 / 3)}, [JUMP]),
        ({"epochs": 4, "done": (0.5, 0.5 * 2 / 3)}, []),
        ({"epochs": 9, "done": (0.5,)}, []),
        ({"epochs": 9, "done": (0.4, 0.2, 0.0)}, []),
        ({"epochs": 9, "done": (0.5, 0.25, 0.0), "schedule": "constant"}, []),
        ({"epochs": 9, "done": (0.5, 0.5 + 0.5 / 7), "schedule": lambda p: 0.5 + p / 2, "prune_rate": 1.0}, []),
        ({"epochs": 4, "done": (0.5, 0.25, 0.0)}, []),
    ],
    ids=short_text,
)
def test_what_is_hardly_meant_is_warned_of_and_nothing_else(options: dict[str, Any], kinds: list[str]) -> None:
    messages = list(planned(**options).complaints())
    assert [kind for message in messages for kind in KINDS if f"Expected {kind}" in message] == kinds
    assert len(messages) == len(kinds)
    assert all("; got" in message and " Cure: " in message for message in messages)


@pytest.mark.parametrize("harmless", [{"moves": False}, {"prune_rate": 0.0}], ids=short_text)
@pytest.mark.parametrize(
    "options", [{"epochs": 1}, {"per_epoch": 1}, {"epochs": 9, "done": (0.5, 0.25, 0.0)}], ids=short_text
)
def test_nothing_is_warned_of_where_no_weights_are_to_move(options: dict[str, Any], harmless: dict[str, Any]) -> None:
    assert list(planned(**options).complaints()) != []
    assert list(planned(**options, **harmless).complaints()) == []


@pytest.mark.parametrize(
    ("sparse", "options", "kind"),
    [
        ({}, {"max_epochs": 1}, NONE),
        ({"every_n_epochs": 50}, {}, NONE),
        ({"every_n_steps": 9}, {}, NONE),
        ({}, {"limit_train_batches": 1}, FEW_STEPS),
        ({}, {"accumulate_grad_batches": 3}, FEW_STEPS),
        ({"prune_rate": 1.0}, {}, EVERYTHING),
    ],
    ids=short_text,
)
def test_each_run_says_so_once(sparse: dict[str, Any], options: dict[str, Any], kind: str) -> None:
    assert complaints(lambda: fit(SparseMomentumCallback(density=0.3, **sparse), **options)) == [kind]
    static = {name: value for name, value in sparse.items() if name != "prune_rate"}
    assert complaints(lambda: fit(SparseTrainingCallback("static", density=0.3, **static), **options)) == []
    assert complaints(lambda: fit(SparseMomentumCallback(density=0.3, **{**sparse, "prune_rate": 0}), **options)) == []


def test_an_ordinary_run_and_a_trial_of_one_step_are_not_warned_of() -> None:
    assert complaints(lambda: fit(SparseMomentumCallback(density=0.3))) == []
    assert complaints(lambda: fit(SparseMomentumCallback(density=0.3), fast_dev_run=True)) == []
    finder = LearningRateFinder(num_training_steps=2, update_attr=False)
    assert complaints(lambda: fit(finder, SparseMomentumCallback(density=0.3))) == []


def test_resuming_a_finished_run_for_longer_says_that_the_prune_rate_jumps_back(tmp_path: Path) -> None:
    path = tmp_path / "end.ckpt"
    fit(SparseMomentumCallback(density=0.3), saving_at(12, path), max_epochs=4)
    extended = SparseMomentumCallback(density=0.3)
    with pytest.warns(UserWarning, match=r"got 0 at the last update and 0\.25 at the next.*Cure: give max_epochs"):
        fit(extended, max_epochs=8, ckpt_path=str(path))
    assert extended.history[3].prune_rate == pytest.approx(0.25)
    fit(SparseMomentumCallback(density=0.3), saving_at(9, path), max_epochs=4)
    assert complaints(lambda: fit(SparseMomentumCallback(density=0.3), max_epochs=4, ckpt_path=str(path))) == []
    constant = SparseMomentumCallback(density=0.3, schedule="constant", prune_rate=0.1)
    assert complaints(lambda: fit(constant, max_epochs=8, ckpt_path=str(path))) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_zero_alone_warns(rank: int) -> None:
    run: Any = SimpleNamespace(
        **{"num_training_batches": 3, "accumulate_grad_batches": 1, "max_epochs": 1, "max_steps": -1},
        **{"is_global_zero": rank == 0, "fast_dev_run": False},
    )
    made = lambda: plan_updates(run, 1, Timetable(Cadence(1), PruneRate(0.5, "cosine")), Counters())  # noqa: E731
    assert complaints(made) == [NONE] * (1 - rank)


@pytest.mark.parametrize(
    ("sparse", "options"),
    [
        ({}, {"max_epochs": 5}),
        ({"every_n_epochs": 2}, {"max_epochs": 7}),
        ({"every_n_steps": 2}, {"max_epochs": 3}),
        ({"every_n_steps": 4}, {"max_epochs": -1, "max_steps": 17}),
        ({}, {"max_epochs": 5, "accumulate_grad_batches": 2}),
        ({"every_n_steps": 3}, {"max_epochs": 6, "accumulate_grad_batches": 2}),
        ({}, {"max_epochs": 4, "loader": stream()}),
    ],
    ids=short_text,
)
def test_the_summary_says_what_then_happens(
    sparse: dict[str, Any], options: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    callback = SparseMomentumCallback(density=0.3, **sparse)
    fit(callback, enable_model_summary=True, **options)
    unit, period = ("step" if "every_n_steps" in sparse else "epoch"), next(iter(sparse.values()), 1)
    first, last = (getattr(callback.history[index], unit) for index in (0, -1))
    every = unit if period == 1 else f"{period} {unit}s"
    number, rate = len(callback.history), callback.history[-1].prune_rate
    expected = f"updates: {number}, one after every {every}, from {unit} {first} to {last}; prune rate 0.5 to {rate:g}."
    assert expected in " ".join(capsys.readouterr().out.split())


def test_a_run_without_a_known_end_promises_no_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    callback = SparseMomentumCallback(density=0.3, schedule="constant")
    fit(callback, module=EndsByItself(), max_epochs=-1, enable_model_summary=True)
    assert "one after every epoch, first after epoch 1, for as long as the run lasts" in capsys.readouterr().out
    fit(callback, module=TinyModule(), loader=ShufflingLoader(), enable_model_summary=False)
    assert "Planned" not in capsys.readouterr().out
