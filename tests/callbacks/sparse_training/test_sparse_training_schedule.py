"""The prune rate decays over the updates that a run really has, and reaches its end at the last one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from tiny_training import (
    Batch,
    EndsByItself,
    ManualModule,
    ShufflingLoader,
    TinyModule,
    falls,
    fit,
    rates,
    squared,
    stream,
)

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.4, 0.3, 0.1, 0.0]),
        ("linear", [0.4, 0.4 * 2 / 3, 0.4 / 3, 0.0]),
        ("constant", [0.4, 0.4, 0.4, 0.4]),
        (squared, [0.4, 0.4 * 4 / 9, 0.4 / 9, 0.0]),
        ("tiny_training.squared", [0.4, 0.4 * 4 / 9, 0.4 / 9, 0.0]),
        ("tiny_training:squared", [0.4, 0.4 * 4 / 9, 0.4 / 9, 0.0]),
    ],
    ids=["cosine", "linear", "constant", "function", "path", "path with a colon"],
)
def test_each_schedule_runs_from_the_first_update_to_the_last(
    schedule: str | Callable[[float], float], expected: list[float]
) -> None:
    callback = SparseMomentumCallback(density=0.3, prune_rate=0.4, schedule=schedule)
    fit(callback, max_epochs=5)
    assert rates(callback) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("period", [{"every_n_epochs": 1}, {"every_n_steps": 3}, {"every_n_steps": 2}], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 5},
        {"max_epochs": -1, "max_steps": 15},
        {"max_epochs": -1, "max_steps": 14},
        {"max_epochs": 100, "max_steps": 13},
        {"max_epochs": 5, "max_steps": 100},
        {"max_epochs": 5, "accumulate_grad_batches": 2},
        {"max_epochs": -1, "max_steps": 10, "accumulate_grad_batches": 2},
        {"max_epochs": -1, "max_steps": 9, "accumulate_grad_batches": 2},
        {"max_epochs": 50, "max_steps": 10, "accumulate_grad_batches": 2},
        {"max_epochs": -1, "max_steps": 12, "limit_train_batches": 2},
    ],
    ids=str,
)
def test_the_prune_rate_is_zero_at_the_last_update_however_the_run_is_limited(
    period: dict[str, int], options: dict[str, Any]
) -> None:
    callback = SparseMomentumCallback(density=0.3, **period)
    fit(callback, **options)
    assert len(callback.history) > 1
    assert falls(rates(callback))
    assert rates(callback)[0] == 0.5
    assert rates(callback)[-1] == 0.0


def test_accumulating_gradients_leaves_the_updates_of_an_epoch_period_as_they_are() -> None:
    found = []
    for accumulate, batches in ((1, 3), (2, 3), (2, 5), (3, 4)):
        callback = SparseMomentumCallback(density=0.3)
        fit(callback, loader=ShufflingLoader(batches), accumulate_grad_batches=accumulate, max_epochs=4)
        found.append([(record.epoch, record.prune_rate) for record in callback.history])
    assert found == [[(1, 0.5), (2, pytest.approx(0.25)), (3, 0.0)]] * 4


def test_accumulating_gradients_leaves_the_updates_of_a_step_period_as_they_are() -> None:
    found = []
    for accumulate in (1, 2):
        callback = SparseMomentumCallback(density=0.3, every_n_steps=2)
        fit(callback, loader=ShufflingLoader(3 * accumulate), accumulate_grad_batches=accumulate)
        found.append([(record.step, record.prune_rate) for record in callback.history])
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_accumulation_may_change_between_epochs() -> None:
    callback = SparseMomentumCallback(density=0.3)
    fit(callback, GradientAccumulationScheduler({0: 1, 1: 3}), max_epochs=4)
    assert [record.step for record in callback.history] == [3, 4, 5]
    assert rates(callback) == pytest.approx([0.5, 0.25, 0.0])


def test_a_stream_without_length_has_as_many_epochs_as_it_is_told() -> None:
    callback = SparseMomentumCallback(density=0.3)
    fit(callback, loader=stream(), max_epochs=4)
    assert rates(callback) == pytest.approx([0.5, 0.25, 0.0])


def test_a_stream_without_length_has_as_many_steps_as_it_is_told() -> None:
    callback = SparseMomentumCallback(density=0.3, every_n_steps=2)
    fit(callback, loader=stream(), max_epochs=-1, max_steps=7)
    assert rates(callback) == pytest.approx([0.5, 0.25, 0.0])


@pytest.mark.parametrize(
    ("period", "options"),
    [
        ({"every_n_steps": 2}, {"max_epochs": 3, "loader": stream()}),
        ({}, {"max_epochs": -1, "max_steps": 9, "loader": stream()}),
    ],
    ids=["steps of a stream", "epochs of a stream"],
)
def test_a_decaying_schedule_over_a_stream_of_unknown_length_is_an_error_with_the_cure(
    period: dict[str, int], options: dict[str, Any]
) -> None:
    callback = SparseMomentumCallback(density=0.3, **period)
    with pytest.raises(ValueError, match=r"Expected a run of known length.*got max_epochs=.*Cure:.*schedule='const"):
        fit(callback, module=EndsByItself(), **options)
    assert callback.history == []


def test_a_constant_schedule_needs_no_known_length() -> None:
    callback = SparseMomentumCallback(density=0.3, schedule="constant")
    fit(callback, module=EndsByItself(), max_epochs=-1)
    assert rates(callback) == [0.5, 0.5]


def test_a_prune_rate_of_zero_never_moves_a_weight_and_one_above_does() -> None:
    for prune_rate, moved in ((0.0, False), (0.5, True)):
        callback = SparseMomentumCallback(density=0.3, prune_rate=prune_rate, schedule="constant")
        fit(callback)
        assert len(callback.history) == 2
        assert any(record.pruned or record.grown for record in callback.history) is moved


def test_the_static_recipe_never_moves_a_weight() -> None:
    callback = SparseTrainingCallback("static", density=0.3)
    fit(callback)
    assert [(record.pruned, record.grown) for record in callback.history] == [(0, 0), (0, 0)]


def test_a_second_fit_of_the_same_trainer_decays_over_its_own_updates() -> None:
    callback, module = SparseMomentumCallback(density=0.3), TinyModule()
    run = fit(callback, module=module)
    run.fit_loop.max_epochs = 7
    run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert [record.epoch for record in callback.history] == [4, 5, 6]
    assert rates(callback) == pytest.approx([0.5, 0.25, 0.0])


@pytest.mark.parametrize(("first", "second"), [(4, 5), (4, 4), (3, 6)])
def test_a_second_fit_in_steps_decays_over_its_own_updates(first: int, second: int) -> None:
    callback, module = SparseMomentumCallback(density=0.3, every_n_steps=5), TinyModule()
    fit(callback, module=module, max_epochs=first)
    fit(callback, module=module, max_epochs=second)
    assert len(callback.history) > 1
    assert falls(rates(callback))
    assert rates(callback)[-1] == 0.0


class TwoSteps(ManualModule):
    """Two optimizers: Lightning counts two steps a batch, while each weight is stepped once."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()


@pytest.mark.parametrize("period", [{"every_n_epochs": 1}, {"every_n_steps": 2}], ids=str)
def test_with_two_optimizers_each_fit_of_a_trainer_decays_over_its_own_updates(period: dict[str, int]) -> None:
    callback, module = SparseMomentumCallback(density=0.3, **period), TwoSteps()
    run = fit(callback, module=module)
    assert rates(callback)[-1] == 0.0
    run.fit_loop.max_epochs = 6
    run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert len(callback.history) > 1
    assert falls(rates(callback))
    assert rates(callback)[-1] == 0.0


@pytest.mark.parametrize("schedule", [lambda progress: np.cos(progress), lambda progress: torch.tensor(1 - progress)])
def test_a_schedule_may_return_any_kind_of_number(schedule: Callable[[float], float]) -> None:
    callback = SparseMomentumCallback(density=0.3, schedule=schedule)
    fit(callback)
    assert [type(rate) for rate in rates(callback)] == [float, float]


@pytest.mark.parametrize("factor", [3.0, 1.01, -0.1, float("nan"), None, "half"])
def test_a_schedule_that_leaves_the_range_is_an_error(factor: Any) -> None:
    with pytest.raises(ValueError, match=rf"Expected a factor in \[0, 1\].*schedule.*got {factor!r}. Cure: return 1"):
        fit(SparseMomentumCallback(density=0.3, schedule=lambda progress: factor))
