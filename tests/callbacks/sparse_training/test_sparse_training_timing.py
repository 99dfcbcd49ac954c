"""An update belongs to a boundary and happens at the first batch after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from tiny_training import (
    At,
    ManualModule,
    ShufflingLoader,
    TinyModule,
    differences,
    fit,
    masks_of,
)
from torch.optim import SGD, Optimizer

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback


def boundaries(callback: SparseTrainingCallback) -> list[tuple[int, int]]:
    """Return completed epochs and steps at each update."""
    return [(record.epoch, record.step) for record in callback.history]


@pytest.mark.parametrize(
    ("period", "options", "expected"),
    [
        ({}, {}, [(1, 3), (2, 6)]),
        ({}, {"max_epochs": 1}, []),
        ({"every_n_epochs": 1}, {"max_epochs": 4}, [(1, 3), (2, 6), (3, 9)]),
        ({"every_n_epochs": 2}, {"max_epochs": 5}, [(2, 6), (4, 12)]),
        ({"every_n_epochs": 2}, {"max_epochs": 4}, [(2, 6)]),
        ({"every_n_epochs": 1}, {"max_epochs": -1, "max_steps": 7}, [(1, 3), (2, 6)]),
        ({"every_n_epochs": 1}, {"max_epochs": -1, "max_steps": 6}, [(1, 3)]),
        ({"every_n_epochs": 1}, {"limit_train_batches": 2}, [(1, 2), (2, 4)]),
        ({"every_n_epochs": 1}, {"accumulate_grad_batches": 2}, [(1, 2), (2, 4)]),
        ({"every_n_epochs": 1}, {"limit_val_batches": 0}, [(1, 3), (2, 6)]),
        ({"every_n_epochs": 1}, {"check_val_every_n_epoch": 2}, [(1, 3), (2, 6)]),
        ({"every_n_steps": 2}, {}, [(0, 2), (1, 4), (2, 6), (2, 8)]),
        ({"every_n_steps": 3}, {}, [(1, 3), (2, 6)]),
        ({"every_n_steps": 2}, {"max_epochs": -1, "max_steps": 6}, [(0, 2), (1, 4)]),
        ({"every_n_steps": 2}, {"accumulate_grad_batches": 2}, [(1, 2), (2, 4)]),
        ({"every_n_steps": 100}, {}, []),
    ],
    ids=str,
)
def test_there_is_an_update_at_every_boundary_but_the_last(
    period: dict[str, int], options: dict[str, Any], expected: list[tuple[int, int]]
) -> None:
    callback = SparseMomentumCallback(density=0.3, **period)
    fit(callback, **options)
    assert boundaries(callback) == expected


def test_an_update_comes_after_the_watchers_of_the_epochs_end_and_before_the_next_batch() -> None:
    callback, seen = SparseMomentumCallback(density=0.3), []
    hooks = ("on_validation_end", "on_train_epoch_end", "on_train_epoch_start", "on_train_batch_start", "on_train_end")
    spies = [At(hook, lambda *_, hook=hook: seen.append((hook, len(callback.history)))) for hook in hooks]
    fit(callback, *spies, max_epochs=2, limit_train_batches=1, num_sanity_val_steps=0)
    assert seen == [
        ("on_train_epoch_start", 0),
        ("on_train_batch_start", 0),
        ("on_validation_end", 0),
        ("on_train_epoch_end", 0),
        ("on_train_epoch_start", 0),
        ("on_train_batch_start", 1),
        ("on_validation_end", 1),
        ("on_train_epoch_end", 1),
        ("on_train_end", 1),
    ]


@pytest.mark.parametrize("save_on_train_epoch_end", [True, False])
@pytest.mark.parametrize("period", [{"every_n_epochs": 1}, {"every_n_steps": 2}], ids=str)
def test_a_checkpoint_has_the_weights_and_masks_that_were_validated(
    tmp_path: Path, save_on_train_epoch_end: bool, period: dict[str, int]
) -> None:
    callback, validated = SparseMomentumCallback(density=0.3, **period), {}

    def keep(trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            weights = {name: values.clone() for name, values in module.state_dict().items()}
            validated[trainer.current_epoch] = (weights, callback.state_dict()["network"]["masks"])

    saving = ModelCheckpoint(
        tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=save_on_train_epoch_end
    )
    fit(callback, At("on_validation_start", keep), saving)
    assert sorted(validated) == [0, 1, 2]
    for epoch, expected in validated.items():
        saved = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
        masks = saved["callbacks"][callback.state_key]["network"]["masks"]
        assert differences((saved["state_dict"], masks), expected) == []


def test_masks_change_at_the_boundary_and_only_there() -> None:
    callback, masks = SparseMomentumCallback(density=0.3), []
    fit(callback, At("on_train_batch_end", lambda *_: masks.append(masks_of(callback))))
    changed = [index for index in range(1, 9) if differences(masks[index - 1], masks[index])]
    assert changed == [3]  # the update at 6 is the last, with a prune rate of zero
    callback, masks = SparseMomentumCallback(density=0.3, schedule="constant"), []
    fit(callback, At("on_train_batch_end", lambda *_: masks.append(masks_of(callback))))
    assert [index for index in range(1, 9) if differences(masks[index - 1], masks[index])] == [3, 6]


@pytest.mark.parametrize("growth", ["momentum", "random", "gradient"])
def test_validating_makes_no_difference(growth: str) -> None:
    runs = []
    for options in ({}, {"val_check_interval": 1}, {"limit_val_batches": 0}, {"num_sanity_val_steps": 0}):
        callback = SparseMomentumCallback(density=0.3, growth=growth)
        run = fit(callback, **options)
        runs.append((run.lightning_module.state_dict(), callback.state_dict()))
    assert [differences(run, runs[0]) for run in runs] == [[]] * 4


def test_early_stopping_ends_updates_too() -> None:
    class Stuck(TinyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("loss", 1.0, batch_size=1)

    callback = SparseMomentumCallback(density=0.3)
    run = fit(callback, EarlyStopping("loss", patience=2), module=Stuck(), max_epochs=10)
    assert run.current_epoch == 3
    assert boundaries(callback) == [(1, 3), (2, 6)]
    assert callback.network is not None
    assert callback.network.density == 0.3


def test_a_fast_dev_run_trains_sparsely_without_an_update() -> None:
    callback = SparseMomentumCallback(density=0.3)
    run = fit(callback, fast_dev_run=True)
    assert run.global_step == 1
    assert boundaries(callback) == []
    assert sum(int(mask.sum()) for mask in masks_of(callback).values()) == 24


def test_the_extra_epoch_of_weight_averaging_for_batch_statistics_has_no_update() -> None:
    callback = SparseMomentumCallback(density=0.3)
    fit(callback, StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1), limit_val_batches=0)
    assert boundaries(callback) == [(1, 3), (2, 6)]
    assert [record.prune_rate for record in callback.history] == [0.5, 0.0]


def test_a_boundary_between_two_steps_of_one_batch_is_not_lost() -> None:
    class Twice(ManualModule):
        """Steps its only optimizer twice in a batch."""

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for _ in range(2):
                self.optimizers().zero_grad()
                self.manual_backward(self.loss(batch))
                self.optimizers().step()

        def configure_optimizers(self) -> Optimizer:
            return SGD(self.parameters(), lr=0.1, momentum=0.9)

    callback = SparseMomentumCallback(density=0.3, every_n_steps=5, schedule="constant")
    fit(callback, module=Twice())
    assert boundaries(callback) == [(1, 6), (1, 10), (2, 16)]


def test_an_epoch_that_the_module_cuts_short_counts_as_an_epoch() -> None:
    class Impatient(TinyModule):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 1 else None

    callback = SparseMomentumCallback(density=0.3)
    fit(callback, module=Impatient(), loader=ShufflingLoader())
    assert boundaries(callback) == [(1, 1), (2, 2)]
