"""A run that fails, is interrupted or killed at any moment leaves nothing behind, and can be resumed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from tiny_training import (
    At,
    ShufflingLoader,
    TinyModule,
    differences,
    everything,
    fit,
    stray_weights,
    trainer,
    watchers_of,
)
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import SparseMomentumCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

MOMENTS = (
    "on_fit_start",
    "on_sanity_check_start",
    "on_train_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
)
PATIENCE = 120  # seconds
ERRORS = [RuntimeError("a user's mistake"), KeyboardInterrupt()]


class Fails(At):
    """Raises an error, once, in a hook after this many steps."""

    def __init__(self, hook: str, error: BaseException, step: int) -> None:
        super().__init__(hook, self._fail)
        self.error: BaseException | None = error
        self.step = step

    def _fail(self, run: Trainer, module: LightningModule) -> None:
        if self.error is not None and run.global_step >= self.step:
            error, self.error = self.error, None
            raise error


@pytest.mark.parametrize("error", ERRORS, ids=["exception", "interrupt"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_after_a_failure_there_are_no_hooks_and_training_goes_on(moment: str, error: BaseException) -> None:
    step = 0 if moment in MOMENTS[:3] else 9 if moment == "on_train_end" else 4
    callback, module = SparseMomentumCallback(density=DENSITY), TinyModule()
    failing, attached = Fails(moment, error, step), []
    run = trainer(At(moment, lambda run, _: attached.append(watchers_of(run))), callback, failing)
    with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
        run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert failing.error is None
    assert watchers_of(run) == 0
    assert moment == "on_fit_start" or attached[-1] == 1
    watch = Watch(callback)
    again = fit(callback, watch, module=module.train())
    assert (again.global_step, watch.stray, set(watch.budgets)) == (9, [], {BUDGET})
    assert watchers_of(again) == 0
    assert stray_weights(callback, module) == {}


@pytest.mark.parametrize("moment", ["on_before_optimizer_step", "on_validation_batch_start"])
def test_a_failed_run_resumes_from_its_last_checkpoint_as_if_it_had_not_failed(tmp_path: Path, moment: str) -> None:
    reference = SparseMomentumCallback(density=DENSITY, growth="random")
    expected = everything(fit(reference), reference)
    callback, failing = SparseMomentumCallback(density=DENSITY, growth="random"), Fails(moment, ValueError("here"), 5)
    with pytest.raises(ValueError, match="here"):
        fit(callback, ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1), failing)
    for same in (True, False):
        resumed = callback if same else SparseMomentumCallback(density=DENSITY, growth="random")
        rerun = fit(resumed, ckpt_path=str(tmp_path / "last.ckpt"))
        assert differences(everything(rerun, resumed), expected) == []


def test_a_failure_while_an_average_is_validated_leaves_weights_that_train_on_sparsely() -> None:
    callback, module = SparseMomentumCallback(density=DENSITY), TinyModule()
    with pytest.raises(ValueError, match="here"):
        fit(
            EMAWeightAveraging(decay=0.5),
            callback,
            Fails("on_validation_batch_start", ValueError("here"), 5),
            module=module,
        )
    assert stray_weights(callback, module) == {}
    watch = Watch(callback)
    fit(callback, watch, module=module.train())
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})


def train_until_killed(step: int, folder: Path, seed: int) -> None:
    """Train in this process until it kills itself after a step."""
    torch.manual_seed(seed)
    saving = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    killing = At("on_train_batch_end", lambda run, _: run.global_step == step and os.kill(os.getpid(), signal.SIGKILL))
    fit(SparseMomentumCallback(density=DENSITY, growth="random"), saving, killing, max_epochs=4)


def killed_at(step: int, folder: Path) -> int:
    """Train in a process of its own that kills itself after a step, and return the signal that ended it."""
    # Not forked: a copy of a process whose threads have computed may wait for them forever.
    child = multiprocessing.get_context("spawn").Process(
        target=train_until_killed, args=(step, folder, torch.initial_seed())
    )
    child.start()
    child.join(PATIENCE)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise TimeoutError(f"a run of twelve steps took more than {PATIENCE} s")
    return -child.exitcode


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("step", [2, 5, 6, 10])
def test_a_killed_run_resumes_from_its_last_checkpoint_as_if_it_had_not_been_killed(tmp_path: Path, step: int) -> None:
    assert killed_at(step, tmp_path) == signal.SIGKILL
    # Callbacks that save come last: the step at which the process was killed was not saved.
    last = max(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    assert last.stem == f"step={step - 1}"
    callback, resumed = (SparseMomentumCallback(density=DENSITY, growth="random") for _ in range(2))
    expected = everything(fit(callback, max_epochs=4), callback)
    torch.manual_seed(99)
    rerun = fit(resumed, ckpt_path=str(last), max_epochs=4)
    assert differences(everything(rerun, resumed), expected) == []
