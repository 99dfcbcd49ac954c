"""Inactive weights are exactly zero after every batch, in whatever way a Trainer takes its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from tiny_training import (
    OPTIMIZERS,
    At,
    Batch,
    ManualModule,
    ShufflingLoader,
    TinyModule,
    active_weights,
    fit,
    stray_weights,
)
from torch import Tensor

from lightning_sparse import SparseMomentumCallback

BUDGET = 24  # 0.3 of 80 weights


def check_every_batch(callback: SparseMomentumCallback, module: LightningModule, **options: Any) -> Trainer:
    """Train and compare weights with masks at the start and the end of every batch and of every validation."""
    seen = []

    def check(trainer: Trainer, module: LightningModule) -> None:
        assert stray_weights(callback, module) == {}
        assert active_weights(callback) == BUDGET
        seen.append(trainer.global_step)

    hooks = ("on_train_batch_start", "on_train_batch_end", "on_validation_start", "on_train_epoch_end", "on_train_end")
    run = fit(callback, *(At(hook, check) for hook in hooks), module=module, **options)
    assert len(seen) > 3 * run.global_step // 2
    return run


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.01},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"precision": "bf16-true"},
        {"precision": "64-true"},
        {"precision": "bf16-mixed"},
    ],
    ids=str,
)
def test_inactive_weights_stay_zero_with_every_optimizer(optimizer: str, options: dict[str, Any]) -> None:
    callback = SparseMomentumCallback(density=0.3, every_n_steps=2)
    check_every_batch(callback, TinyModule(optimizer), **options)
    assert sum(record.grown for record in callback.history) > 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_without_the_callback_the_same_weights_are_not_zero(optimizer: str) -> None:
    callback = SparseMomentumCallback(density=0.3)
    module = TinyModule(optimizer)
    fit(callback, module=module, max_epochs=1)
    assert stray_weights(callback, module) == {}
    fit(module=module, max_epochs=1)
    assert set(stray_weights(callback, module)) == {"net.0.weight", "net.3.weight"}


def test_steps_are_optimizer_steps_when_gradients_are_accumulated_with_a_ragged_tail() -> None:
    callback = SparseMomentumCallback(density=0.3)
    run = check_every_batch(callback, TinyModule(), loader=ShufflingLoader(5), accumulate_grad_batches=2)
    assert callback.network is not None
    assert callback.network.steps == run.global_step == 9
    assert [record.step for record in callback.history] == [3, 6]


def test_inactive_weights_stay_zero_under_manual_optimization_with_a_raw_optimizer() -> None:
    callback = SparseMomentumCallback(density=0.3)
    check_every_batch(callback, ManualModule())
    assert callback.network is not None
    assert callback.network.steps == 9
    assert [record.epoch for record in callback.history] == [1, 2]


class Noisy(ManualModule):
    """Writes to its weights after every batch, when callbacks have looked at them, and notes what the next one uses."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        weights = [self.get_parameter(name) for name in ("net.0.weight", "net.3.weight")]
        self.used.append(sum(int(torch.count_nonzero(weight)) for weight in weights))
        super().training_step(batch, batch_idx)

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        self.net[0].weight.add_(0.1)


@pytest.mark.parametrize("sparse", [True, False])
def test_weights_written_to_between_batches_are_masked_before_the_next_forward_pass(sparse: bool) -> None:
    module = Noisy()
    fit(*([SparseMomentumCallback(density=0.3, every_n_epochs=2)] if sparse else []), module=module)
    assert len(module.used) == 9
    assert (max(module.used) <= BUDGET) is sparse


class NoisyAfterSteps(ManualModule):
    """Writes to its weights after the last step of every batch."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        with torch.no_grad():
            self.net[0].weight.add_(0.1)


@pytest.mark.parametrize("sparse", [True, False])
def test_weights_written_to_after_the_last_step_of_a_batch_are_masked_at_its_end(sparse: bool) -> None:
    module, seen = NoisyAfterSteps(), []
    look = At("on_train_batch_end", lambda *_: seen.append(int(torch.count_nonzero(module.net[0].weight))))
    fit(*([SparseMomentumCallback(density=0.3)] if sparse else []), look, module=module)
    assert len(seen) == 9
    assert (max(seen) <= BUDGET) is sparse


class Overflowing(TinyModule):
    """The gradient scaler skips the second step: its gradients are infinite."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch) * (torch.inf if self.global_step == 1 else 1)


def test_a_step_that_the_gradient_scaler_skips_does_not_count() -> None:
    callback = SparseMomentumCallback(density=0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=4)
    check_every_batch(callback, Overflowing(), plugins=MixedPrecision("16-mixed", "cpu", scaler=scaler))
    assert callback.network is not None
    assert callback.network.steps == 8


def test_gradients_are_left_to_the_user() -> None:
    norms: list[list[float]] = []
    for callbacks in ((SparseMomentumCallback(density=1.0),), ()):
        seen: list[float] = []
        spy = At("on_before_optimizer_step", lambda trainer, module, seen=seen: seen.append(_norm(module)))
        fit(*callbacks, spy)
        norms.append(seen)
    assert norms[0] == norms[1]


def test_gradients_of_inactive_weights_are_not_masked() -> None:
    callback, found = SparseMomentumCallback(density=0.3), []

    def look(trainer: Trainer, module: LightningModule) -> None:
        assert callback.network is not None
        mask = callback.network.masks["net.3.weight"]
        found.append(int(torch.count_nonzero(module.get_parameter("net.3.weight").grad[~mask])))

    fit(callback, At("on_train_batch_end", look))
    assert all(found)


def _norm(module: LightningModule) -> float:
    return float(sum(parameter.grad.square().sum() for parameter in module.parameters()))


@torch.no_grad()
def fill_weights(trainer: Trainer, module: LightningModule) -> None:
    """Change every weight outside of an optimizer step, as callbacks of other authors may."""
    for parameter in module.parameters():
        parameter.fill_(1.0)


def stray_after_a_change_in(hook: str, folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Change weights in the hook of a callback before ours; return the stray weights that are saved, and left."""
    callback, module = SparseMomentumCallback(density=0.3), TinyModule()
    saving = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True)
    fit(At(hook, fill_weights), callback, saving, module=module, max_epochs=1)
    left = stray_weights(callback, module)
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    return stray_weights(callback, module), left


def test_weights_that_a_callback_changes_at_the_end_of_an_epoch_are_saved_sparse(tmp_path: Path) -> None:
    assert stray_after_a_change_in("on_train_epoch_end", tmp_path)[0] == {}


def test_weights_that_a_callback_changes_at_the_end_of_training_are_left_sparse(tmp_path: Path) -> None:
    assert stray_after_a_change_in("on_train_end", tmp_path)[1] == {}


@pytest.mark.parametrize(("hook", "which"), [("on_train_epoch_end", 0), ("on_train_end", 1)], ids=["saved", "left"])
def test_without_our_hook_such_changes_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: str, which: int
) -> None:
    monkeypatch.setattr(SparseMomentumCallback, hook, lambda *_: None)
    assert set(stray_after_a_change_in(hook, tmp_path)[which]) == {"net.0.weight", "net.3.weight"}
