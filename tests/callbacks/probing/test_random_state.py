"""A resumed run draws the random numbers of an uninterrupted one, from each global generator."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import dropout
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse.callbacks import RandomStateCallback
from lightning_sparse.testing.callbacks.training import BATCHES, CLASSES, FEATURES, ShufflingLoader, TinyModule, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no .val_dataloader.:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
EPOCHS = 3
STEPS = EPOCHS * BATCHES


class Drawing(TinyModule):
    """Draws from all three global random states in every step."""

    def __init__(self) -> None:
        super().__init__("momentum")
        self.drawn: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        python, numpy = random.random(), float(np.random.rand())  # noqa: NPY002  # what is tested
        self.drawn += [python, numpy]
        loss = super().training_step((dropout(batch[0], 0.5), batch[1]), batch_idx)
        return loss * (1 + python + numpy)


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002  # what is tested
    torch.manual_seed(number)


def run(folder: Path, *, keeps: bool, ckpt_path: Path | None = None) -> Drawing:
    module = Drawing()
    seed(5)
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    callbacks = [*([RandomStateCallback()] if keeps else []), *([] if ckpt_path else [saver])]
    trainer(*callbacks, max_epochs=EPOCHS, enable_checkpointing=True).fit(
        module, ShufflingLoader(), ckpt_path=ckpt_path, weights_only=True
    )
    return module


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_run_with_dropout_resumes_exactly_after_any_step(step: int, tmp_path: Path) -> None:
    whole = run(tmp_path, keeps=True)
    resumed = run(tmp_path, keeps=True, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert resumed.drawn == whole.drawn[2 * step :]
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


def from_plain_loader(folder: Path, ckpt_path: Path | None = None, *, shuffle: bool) -> Drawing:
    module = Drawing()
    seed(5)
    inputs = torch.randn(BATCHES * 4, FEATURES, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(inputs, torch.arange(len(inputs)) % CLASSES)
    saver = ModelCheckpoint(folder, "{step}", every_n_epochs=1, save_top_k=-1)
    trainer(RandomStateCallback(), saver, max_epochs=EPOCHS, enable_checkpointing=True).fit(
        module, DataLoader(data, 4, shuffle=shuffle), DataLoader(data, 4), ckpt_path=ckpt_path, weights_only=True
    )
    return module


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("epoch", range(1, EPOCHS))
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*:UserWarning")
def test_a_run_on_a_plain_loader_resumes_exactly_where_an_epoch_begins(
    epoch: int, shuffle: bool, tmp_path: Path
) -> None:
    whole = from_plain_loader(tmp_path, shuffle=shuffle)
    resumed = from_plain_loader(tmp_path, tmp_path / f"step={epoch * BATCHES}.ckpt", shuffle=shuffle)
    assert resumed.drawn == whole.drawn[2 * epoch * BATCHES :]
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


def test_without_it_dropout_starts_over_from_the_seed(tmp_path: Path) -> None:
    whole = run(tmp_path, keeps=False)
    resumed = run(tmp_path, keeps=False, ckpt_path=tmp_path / "step=4.ckpt")
    assert resumed.drawn == whole.drawn[: 2 * (STEPS - 4)]
    assert not all(map(torch.equal, whole.parameters(), resumed.parameters()))


def test_a_run_that_is_not_interrupted_is_the_same_with_and_without_it(tmp_path: Path) -> None:
    with_it, without = run(tmp_path / "with", keeps=True), run(tmp_path / "without", keeps=False)
    assert with_it.drawn == without.drawn
    assert all(map(torch.equal, with_it.parameters(), without.parameters()))


def test_a_second_fit_does_not_restore_the_states_of_the_first(tmp_path: Path) -> None:
    callback = RandomStateCallback()
    callback.setup(trainer(), TinyModule("momentum"), "fit")
    seed(1)
    state = callback.state_dict()
    callback.load_state_dict(state)
    seed(2)
    before = torch.get_rng_state()
    run = trainer(callback, max_epochs=1)
    run.fit(TinyModule("momentum"), ShufflingLoader())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("damage", ["torch", "python", "numpy"])
def test_a_damaged_state_is_refused(damage: str) -> None:
    callback = RandomStateCallback()
    state = callback.state_dict()
    state["states"][damage] = [0]
    with pytest.raises(ValueError, match=r"Expected a state with the checksum .* Cure: the file is damaged"):
        callback.load_state_dict(state)


def test_evaluation_from_a_checkpoint_draws_as_it_does_without_it(tmp_path: Path) -> None:
    run(tmp_path, keeps=True)
    seed(9)
    before = torch.get_rng_state()
    evaluation: Trainer = trainer(RandomStateCallback())
    module = TinyModule("momentum")
    evaluation.validate(module, ShufflingLoader(), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True, verbose=False)
    assert torch.equal(torch.get_rng_state(), before)
