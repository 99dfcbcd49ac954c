"""The last step of an epoch is measured, wherever the epoch ends, or a warning says why not."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from tiny_training import At, Batch, ShufflingLoader, TinyModule, fit, trainer
from torch import Tensor
from torch.optim import SGD, Optimizer

from lightning_sparse import GradientFlowCallback, SparseMomentumCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:.*training_step.* returned .None.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no .val_dataloader.:UserWarning"),
]
BATCHES = 5
CLIPPED = {"gradient_clip_val": 1e-3}


class LeavesOut(TinyModule):
    """Leaves out the rest of each epoch from its fourth batch on."""

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:  # type: ignore[override]  # as Lightning lets it
        return -1 if batch_idx == 3 else None


def stops_at(step: int) -> Callback:
    def stop(run: Any, _: Any) -> None:
        run.should_stop = run.global_step >= step

    return At("on_train_batch_end", stop)


class Worsening(TinyModule):
    """Logs a loss that falls until the first validation of the third epoch."""

    count = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.count += 1
        self.log("val", float(-self.count if self.count < 6 else 0), batch_size=1)


RUNS: dict[str, tuple[type[TinyModule], Any, dict[str, Any], list[int]]] = {
    "stopped_by_a_callback": (TinyModule, lambda: [stops_at(8)], {}, [4, 7]),
    "stopped_before_a_validation": (TinyModule, lambda: [stops_at(8)], {"val_check_interval": 4}, [4, 7]),
    "stopped_by_a_validation": (
        Worsening,
        lambda: [EarlyStopping("val", patience=1, check_on_train_epoch_end=False)],
        {"val_check_interval": 2},
        [4, 9, 11],
    ),
    "left_out_from_a_batch_on": (LeavesOut, list, {}, [2, 5, 8]),
    "stopped_without_validation": (TinyModule, lambda: [stops_at(8)], {"limit_val_batches": 0}, [4, 7]),
    "whole": (TinyModule, list, {}, [4, 9, 14]),
}


@pytest.mark.parametrize("kind", [*RUNS])
def test_the_last_step_of_each_epoch_is_measured_wherever_it_ends(kind: str) -> None:
    module, callbacks, options, last = RUNS[kind]
    flow, every = GradientFlowCallback(), GradientFlowCallback(every_n_steps=1, name="every")
    sparse = SparseMomentumCallback(density=0.5, schedule="constant")
    fit(flow, every, sparse, *callbacks(), module=module(), loader=ShufflingLoader(BATCHES), **options)
    assert [record.step for record in flow.history] == last
    assert flow.history == [record for record in every.history if record.step in last]


@pytest.mark.parametrize("kind", [*RUNS])
def test_fixed_batches_are_measured_after_the_last_step_of_each_epoch(kind: str) -> None:
    module, callbacks, options, last = RUNS[kind]
    batch = next(iter(ShufflingLoader()))
    flow = GradientFlowCallback(batches=[batch])
    every = GradientFlowCallback(batches=[batch], every_n_steps=1, name="every")
    fit(flow, every, *callbacks(), module=module(), loader=ShufflingLoader(BATCHES), **options)
    assert [record.step for record in flow.history] == last
    assert flow.history == [record for record in every.history if record.step in last]


@pytest.mark.parametrize("batches", [None, [next(iter(ShufflingLoader()))]], ids=["steps", "fixed"])
def test_of_epochs_that_are_not_to_be_measured_none_is(batches: Any) -> None:
    flow = GradientFlowCallback(every_n_epochs=2, batches=batches)
    fit(flow, module=LeavesOut(), loader=ShufflingLoader(BATCHES), max_epochs=5)
    assert [record.epoch for record in flow.history] == [1, 3]
    flow = GradientFlowCallback(every_n_epochs=2, batches=batches)
    fit(flow, stops_at(12), loader=ShufflingLoader(BATCHES), max_epochs=5)
    assert [record.epoch for record in flow.history] == [1]


class Nothing(TinyModule):
    """Has no step in its second epoch."""

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:  # type: ignore[override]  # as above
        return -1 if self.current_epoch == 1 else None


@pytest.mark.parametrize("batches", [None, [next(iter(ShufflingLoader()))]], ids=["steps", "fixed"])
def test_an_epoch_without_steps_is_not_measured(batches: Any) -> None:
    flow = GradientFlowCallback(batches=batches)
    fit(flow, module=Nothing(), loader=ShufflingLoader(BATCHES))
    assert [record.epoch for record in flow.history] == [0, 2]


class Iterating(TinyModule):
    """Fetches its batches itself, so that nobody knows before a step whether its batch is the last one."""

    def training_step(self, dataloader_iter: Any) -> Tensor:  # type: ignore[override]  # as Lightning lets it
        batch, _, _ = next(dataloader_iter)
        return self.loss(batch)


@pytest.mark.filterwarnings("ignore:.*`dataloader_iter`:UserWarning")
def test_a_module_that_fetches_its_batches_itself_is_measured_at_the_last_one() -> None:
    flow, every = GradientFlowCallback(), GradientFlowCallback(every_n_steps=1, name="every")
    trainer(flow, every, limit_val_batches=0).fit(Iterating(), ShufflingLoader(BATCHES))
    last = {record.epoch: record for record in every.history}
    assert flow.history == list(last.values())
    assert len(flow.history) == 3


class InPlace(SGD):
    """Changes the gradients when it steps, as some optimizers do."""

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad.add_(parameter)
        super().step()
        return loss


class Changing(TinyModule):
    """Has an optimizer that changes gradients."""

    def configure_optimizers(self) -> Optimizer:
        return InPlace(self.parameters(), lr=0.1)


class Ragged(TinyModule):
    """Has no loss for the last batch of an epoch."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return None if batch_idx == BATCHES - 1 else super().training_step(batch, batch_idx)


class Clearing(TinyModule):
    """Clears gradients after each batch, to save memory."""

    def on_train_batch_end(self, *_: Any) -> None:
        self.zero_grad()


class ClearsAndLeavesOut(Clearing, LeavesOut):
    """Does both."""


@pytest.mark.parametrize(
    ("module", "callbacks", "options", "reason", "epochs"),
    [
        (TinyModule, lambda: [stops_at(8)], {"gradient_clip_val": 1e-3}, "changed in place since, by clipping", [0]),
        (
            TinyModule,
            lambda: [stops_at(8)],
            {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"},
            "changed",
            [0],
        ),
        (Changing, lambda: [stops_at(8)], {}, "changed in place since", [0]),
        (TinyModule, lambda: [stops_at(4)], {"accumulate_grad_batches": 2}, None, [0, 1]),
        (LeavesOut, list, {"accumulate_grad_batches": 2}, "cleared since, by batches without a step", []),
        (Ragged, list, {}, "cleared since, by batches without a step", []),
        (Clearing, lambda: [stops_at(8)], {}, None, [0, 1]),
        (Clearing, lambda: [stops_at(8)], {"limit_val_batches": 0}, "or by the project", [0]),
        (TinyModule, lambda: [stops_at(8)], {"limit_val_batches": 0}, None, [0, 1]),
        (TinyModule, lambda: [stops_at(8)], {**CLIPPED, "limit_val_batches": 0}, "changed in place", [0]),
        (ClearsAndLeavesOut, list, {}, "cleared since", []),
    ],
    ids=[
        "clipped_by_norm",
        "clipped_by_value",
        "optimizer",
        "accumulated",
        "cut_short",
        "no_loss",
        "cleared_and_stopped",
        "cleared_and_not_validated",
        "not_validated",
        "clipped_and_not_validated",
        "cleared_and_cut_short",
    ],
)
def test_a_last_step_that_can_not_be_measured_any_more_is_a_warning_with_the_reason(
    module: type[TinyModule], callbacks: Any, options: dict[str, Any], reason: str | None, epochs: list[int]
) -> None:
    flow = GradientFlowCallback()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(flow, *callbacks(), module=module(), loader=ShufflingLoader(BATCHES), **options)
    found = [str(each.message) for each in caught if "gradients of the last step" in str(each.message)]
    assert [record.epoch for record in flow.history] == epochs
    assert bool(found) == (reason is not None)
    assert all(reason is not None and reason in each and "every_n_steps" in each for each in found)


@pytest.mark.parametrize("at", [1, 2, 3])  # later ones Lightning resumes with another batch after epochs cut short
@pytest.mark.parametrize("batches", [None, [next(iter(ShufflingLoader()))]], ids=["steps", "fixed"])
def test_a_resumed_run_has_the_same_last_steps(batches: Any, at: int, tmp_path: Path) -> None:
    def save(run: Any, _: Any) -> None:
        if run.global_step == at:
            run.save_checkpoint(tmp_path / "one.ckpt")

    def run(*callbacks: Callback, **options: Any) -> None:
        trainer(*callbacks, limit_val_batches=0).fit(LeavesOut(), ShufflingLoader(BATCHES), **options)

    whole, resumed = GradientFlowCallback(batches=batches), GradientFlowCallback(batches=batches)
    run(whole, At("on_train_batch_end", save))
    run(resumed, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert [record.step for record in whole.history] == [2, 5, 8]
    assert resumed.history == whole.history


@pytest.mark.parametrize("batches", [None, [next(iter(ShufflingLoader()))]], ids=["steps", "fixed"])
def test_a_run_resumed_from_a_validation_within_an_epoch_measures_its_real_last_step(
    batches: Any, tmp_path: Path
) -> None:
    def save(run: Any, _: Any) -> None:
        if run.global_step == 7:
            run.save_checkpoint(tmp_path / "one.ckpt")

    def run(*callbacks: Callback, **options: Any) -> None:
        fit(*callbacks, loader=ShufflingLoader(BATCHES), val_check_interval=2, **options)

    whole, resumed = GradientFlowCallback(batches=batches), GradientFlowCallback(batches=batches)
    run(whole, At("on_validation_end", save))
    state = next(iter(torch.load(tmp_path / "one.ckpt", weights_only=True)["callbacks"].values()))
    assert ("unsettled" in state) == (batches is None)
    run(resumed, ckpt_path=str(tmp_path / "one.ckpt"))
    assert [record.step for record in whole.history] == [4, 9, 14]
    assert resumed.history == whole.history


def test_saving_changes_no_measurement_and_leaves_no_gradient_behind(tmp_path: Path) -> None:
    def save(run: Any, _: Any) -> None:
        run.save_checkpoint(tmp_path / "one.ckpt")

    flow, saved = GradientFlowCallback(), GradientFlowCallback()
    fit(flow, stops_at(8), loader=ShufflingLoader(BATCHES))
    fit(saved, At("on_train_batch_end", save), stops_at(8), loader=ShufflingLoader(BATCHES))
    assert saved.history == flow.history
    assert saved._measurement._latest is None  # type: ignore[attr-defined]  # of steps


def test_gradients_of_the_latest_step_are_let_go_before_they_are_cleared_and_by_copies() -> None:
    kept: list[bool] = []
    copies: list[Any] = []
    flow = GradientFlowCallback()

    def note(*_: Any) -> None:
        kept.append(flow._measurement._latest is not None)  # type: ignore[attr-defined]  # of steps

    copying = At("on_train_batch_end", lambda *_: copies.append(pickle.loads(pickle.dumps(copy.deepcopy(flow)))))
    fit(flow, At("on_before_zero_grad", note), copying, loader=ShufflingLoader(BATCHES))
    assert kept == [False] * 3 * BATCHES
    assert all(each._measurement._latest is None for each in copies)
    assert copies[-1].history == flow.history
