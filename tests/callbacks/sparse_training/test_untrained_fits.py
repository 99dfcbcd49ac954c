"""A fit that trains nothing leaves weights, masks and history as they were, and what it saves can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.strategies import SingleDeviceStrategy
from tiny_training import (
    At,
    ShufflingLoader,
    TinyModule,
    differences,
    everything,
    fit,
    masks_of,
    saving_at,
    stray_weights,
)
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import ClassSpecializationCallback, GradientFlowCallback, SparseMomentumCallback
from lightning_sparse.testing.equality import deep_copy

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

NO_STEP: dict[str, dict[str, Any]] = {
    "no batches": {"limit_train_batches": 0},
    "no epochs": {"max_epochs": 0},
    "no steps": {"max_steps": 0},
}


def sparse(**options: Any) -> SparseMomentumCallback:
    return SparseMomentumCallback(**{"density": DENSITY, "schedule": "constant", "growth": "random", **options})


class Called(TinyModule):
    """Can be called with inputs, as a measurement does."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.net(inputs)
        return outputs


def measuring() -> list[Any]:
    return [GradientFlowCallback(every_n_steps=2), ClassSpecializationCallback("Linear", every_n_epochs=1)]


def values(module: TinyModule) -> dict[str, Any]:
    return deep_copy(dict(module.state_dict()))


class UnrelatedError(Exception):
    """Of something that has nothing to do with sparse training."""


def fail(*callbacks: Any, module: TinyModule, hook: str = "on_train_epoch_start", **options: Any) -> None:
    """Train until something fails before the first batch."""

    def stop(*_: Any) -> None:
        raise UnrelatedError

    with pytest.raises(UnrelatedError):
        fit(*callbacks, At(hook, stop), module=module, **options)


@pytest.mark.parametrize("options", NO_STEP.values(), ids=list(NO_STEP))
def test_a_fit_without_a_step_leaves_dense_weights_dense_and_a_new_fit_possible(options: dict[str, Any]) -> None:
    callback, module, seen = sparse(), TinyModule(), []
    before = values(module)
    spy = At("on_validation_start", lambda *_: seen.append(stray_weights(callback, module)))
    fit(callback, spy, module=module, **options)
    assert seen == [{}]
    assert differences(values(module), before) == []
    assert (getattr(callback, "network", None), callback.history) == (None, [])
    fresh = sparse()
    expected = everything(fit(fresh), fresh)
    for each in (callback, sparse()):
        module.load_state_dict(before)
        assert differences(everything(fit(each, module=module.train()), each), expected) == []


def test_a_fit_with_a_step_masks_them() -> None:
    callback, module = sparse(), TinyModule()
    fit(callback, module=module, limit_train_batches=1, max_epochs=1)
    assert sum(int(torch.count_nonzero(module.get_parameter(name))) for name in masks_of(callback)) <= BUDGET


@pytest.mark.parametrize("options", NO_STEP.values(), ids=list(NO_STEP))
def test_a_fit_without_a_step_keeps_masks_weights_and_history(options: dict[str, Any]) -> None:
    callback, module = sparse(), TinyModule()
    fit(callback, module=module)
    before = (values(module), masks_of(callback), list(callback.history))
    fit(callback, module=module, **options)
    assert differences((values(module), masks_of(callback), list(callback.history)), before) == []
    assert len(callback.history) == 2


@pytest.mark.parametrize("same_trainer", [True, False], ids=["again", "from its checkpoint"])
def test_fitting_a_finished_run_keeps_its_history_and_measurements(tmp_path: Path, same_trainer: bool) -> None:
    def callbacks() -> list[Any]:
        return [
            sparse(),
            GradientFlowCallback(every_n_steps=2),
            ClassSpecializationCallback("Linear", every_n_epochs=1),
        ]

    used, module = callbacks(), Called()
    run = fit(*used, module=module)
    run.save_checkpoint(tmp_path / "end.ckpt")
    histories = [deep_copy(list(each.history)) for each in used]
    assert [len(history) for history in histories] == [2, 4, 3]
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    if same_trainer:
        again, others = run, used
        run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    else:
        others = callbacks()
        again = fit(*others, module=Called(), ckpt_path=str(tmp_path / "end.ckpt"))
    assert differences([list(each.history) for each in others], histories) == []
    assert differences(values(again.lightning_module), values(module)) == []
    again.save_checkpoint(tmp_path / "again.ckpt")
    assert differences(torch.load(tmp_path / "again.ckpt", weights_only=True)["callbacks"], saved["callbacks"]) == []
    others[0].network.enforce()  # its masks are those of the weights
    assert differences(values(again.lightning_module), values(module)) == []


def test_a_finished_run_that_is_trained_further_begins_a_history() -> None:
    callback, module = sparse(), TinyModule()
    run = fit(callback, module=module)
    run.fit_loop.max_epochs = 5
    run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert [record.epoch for record in callback.history] == [4]


@pytest.mark.parametrize("hook", ["on_fit_start", "on_sanity_check_start", "on_train_start", "on_train_epoch_start"])
def test_a_first_run_that_fails_before_its_first_batch_can_be_resumed(tmp_path: Path, hook: str) -> None:
    reference, module = sparse(), TinyModule()
    expected = everything(fit(reference), reference)
    before = values(module)
    failed = sparse()
    saving = At("on_exception", lambda run, _: run.save_checkpoint(tmp_path / "failed.ckpt"))
    fail(failed, saving, module=module, hook=hook)
    assert differences(values(module), before) == []
    assert not hasattr(failed, "network")
    assert differences(torch.load(tmp_path / "failed.ckpt", weights_only=True)["state_dict"], before) == []
    resumed = sparse()
    rerun = fit(resumed, ckpt_path=str(tmp_path / "failed.ckpt"))
    assert differences(everything(rerun, resumed), expected) == []


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_epoch_start"])
def test_a_second_fit_that_fails_before_its_first_batch_can_be_resumed(tmp_path: Path, hook: str) -> None:
    callbacks, modules = [sparse(every_n_steps=2) for _ in range(2)], [TinyModule() for _ in range(2)]
    for callback, module in zip(callbacks, modules, strict=True):
        fit(callback, module=module, max_epochs=1)
    expected = everything(fit(callbacks[0], module=modules[0]), callbacks[0])
    history = list(callbacks[1].history)
    saving = At("on_exception", lambda run, _: run.save_checkpoint(tmp_path / "failed.ckpt"))
    fail(callbacks[1], saving, module=modules[1], hook=hook)
    assert callbacks[1].history == history != []
    resumed = sparse(every_n_steps=2)
    rerun = fit(resumed, ckpt_path=str(tmp_path / "failed.ckpt"))
    assert differences(everything(rerun, resumed), expected) == []


def test_what_a_failed_run_measured_before_is_kept_and_not_saved_with_it(tmp_path: Path) -> None:
    callbacks: list[Any] = [
        GradientFlowCallback(every_n_steps=2),
        ClassSpecializationCallback("Linear", every_n_epochs=1),
    ]
    fit(*callbacks, module=Called())
    histories = [deep_copy(list(each.history)) for each in callbacks]
    saving = At("on_exception", lambda run, _: run.save_checkpoint(tmp_path / "failed.ckpt"))
    fail(*callbacks, saving, module=Called())
    assert all(histories)
    assert differences([list(each.history) for each in callbacks], histories) == []
    assert torch.load(tmp_path / "failed.ckpt", weights_only=True)["callbacks"] == {}


def finder() -> LearningRateFinder:
    return LearningRateFinder(num_training_steps=5, update_attr=False)


@pytest.mark.parametrize("same_module", [True, False], ids=["the same module", "another module"])
def test_a_finder_in_a_second_fit_changes_nothing(tmp_path: Path, same_module: bool) -> None:
    found = []
    for finders in ([], [finder()]):
        callback, module = sparse(every_n_steps=2, seed=5), TinyModule()
        fit(callback, module=module, max_epochs=1)
        second = module if same_module else TinyModule()
        run = fit(*finders, callback, module=second, default_root_dir=tmp_path)
        found.append(everything(run, callback))
    assert differences(*found) == []


def test_a_finder_in_the_middle_of_training_is_followed_by_what_was_there_before(tmp_path: Path) -> None:
    class InTheMiddle(LearningRateFinder):
        def on_fit_start(self, *_: Any) -> None:
            """Not yet."""

        def on_train_epoch_start(self, run: Any, module: Any) -> None:
            if run.current_epoch == 1:
                self.lr_find(run, module)

    callback, saved = sparse(), []
    watch = Watch(callback)
    middle = InTheMiddle(num_training_steps=5, update_attr=False)
    spy = At("on_train_batch_end", lambda run, _: saved.append((callback.state_dict(), masks_of(callback))))
    fit(middle, callback, watch, spy, default_root_dir=tmp_path)
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})
    assert callback.network is not None
    assert callback.network.steps == saved[-1][0]["network"]["steps"] == len(saved)
    assert saved[2][0]["network"]["masks"].keys() == saved[-1][0]["network"]["masks"].keys()
    assert differences(saved[2][0]["network"]["masks"], saved[-1][0]["network"]["masks"])


class Late(SingleDeviceStrategy):
    """Restores a checkpoint only after the start of fit, as strategies do that shard the model."""

    restore_checkpoint_after_setup = True


def late() -> dict[str, Any]:
    return {"strategy": Late(device=torch.device("cpu"))}


@pytest.mark.parametrize("holds", ["new weights", "the sparse weights"])
def test_a_checkpoint_may_be_restored_after_the_start_of_fit(tmp_path: Path, holds: str) -> None:
    callback = sparse()
    expected = everything(fit(callback, saving_at(4, tmp_path / "one.ckpt"), **late()), callback)
    module = TinyModule()
    if holds == "the sparse weights":
        module.load_state_dict(torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"])
    resumed = sparse()
    rerun = fit(resumed, module=module, ckpt_path=str(tmp_path / "one.ckpt"), **late())
    assert differences(everything(rerun, resumed), expected) == []


def test_where_no_checkpoint_comes_new_masks_for_sparse_weights_are_refused_there_too() -> None:
    module = TinyModule()
    fit(sparse(), module=module, **late())
    before = values(module)
    with pytest.raises(ValueError, match="dense"):
        fit(sparse(), module=module, **late())
    assert differences(values(module), before) == []


def test_where_a_checkpoint_comes_late_it_needs_masks_too(tmp_path: Path) -> None:
    fit(saving_at(4, tmp_path / "dense.ckpt"))
    with pytest.raises(ValueError, match="Expected the state of SparseMomentumCallback"):
        fit(sparse(), ckpt_path=str(tmp_path / "dense.ckpt"), **late())


def test_a_run_with_a_late_start_is_the_same_run() -> None:
    found = []
    for options in ({}, late()):
        callback = sparse()
        found.append(everything(fit(callback, **options), callback))
    assert differences(*found) == []


def test_a_fit_is_undone_where_it_was_to_start_late() -> None:
    callback, module = sparse(), TinyModule()
    before = values(module)
    fail(callback, module=module, hook="on_train_start", **late())
    assert differences(values(module), before) == []
