"""A resumed Lightning run sees the batches of the uninterrupted one, wherever the checkpoint was taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_sparse.data import ArrayDataModule

pytestmark = [
    # Lightning 2.6 uses a spelling of PyTorch's tree utilities that PyTorch 2.15 deprecates.
    # The resumed runs save no checkpoints of their own.
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
]

EPOCHS = 3
IMAGES = 22  # 20 of them to train on: batches of 6, 6, 6 and 2

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "epochs_left_early": {"limit_train_batches": 3},
    "until_a_number_of_steps": {"max_steps": 10, "max_epochs": -1},
    "steps_and_epochs_left_early": {"max_steps": 8, "max_epochs": -1, "limit_train_batches": 3},
    "accumulating_gradients": {"accumulate_grad_batches": 3},
    "validating_twice_an_epoch": {"val_check_interval": 2},
    "never_validating": {"limit_val_batches": 0},
    "reloading_the_loader": {"reload_dataloaders_every_n_epochs": 1},
    "augmenting": {"crop_padding": 1, "flip": True},
}
MOMENTS: dict[str, dict[str, Any]] = {
    "every_step": {"every_n_train_steps": 1},
    "validation_end": {"save_on_train_epoch_end": False},
    "epoch_end": {"save_on_train_epoch_end": True},
}


class Recorder(LightningModule):
    """Learns from images that show their own number, and records the pixels of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.seen: list[list[list[int]]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        self.seen.append(images.flatten(1).round().int().tolist())
        return nn.functional.cross_entropy(self.layer(images.flatten(1) / IMAGES), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def numbered_images(**options: Any) -> ArrayDataModule:
    """Return images of 2 x 2 pixels, all of which differ, within and between images."""
    images = np.arange(IMAGES * 4, dtype=np.uint8).reshape(IMAGES, 2, 2)
    labels = np.arange(IMAGES) % 2
    options |= {"batch_size": 6, "val_fraction": 0.1, "mean": [0.0], "std": [1 / 255]}
    return ArrayDataModule(images, labels, images, labels, **options)


def run(variant: dict[str, Any], checkpoint: ModelCheckpoint | None, seed: int, path: Path | None = None) -> Recorder:
    torch.manual_seed(seed)
    module = Recorder()
    options = {"max_epochs": EPOCHS, "num_sanity_val_steps": 1, **variant}
    data = numbered_images(**{key: options.pop(key) for key in ("crop_padding", "flip") if key in options})
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=checkpoint is not None,
        callbacks=[] if checkpoint is None else [checkpoint],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, data, ckpt_path=path)
    return module


def steps_before(path: Path) -> int:
    checkpoint = torch.load(path, weights_only=True)
    return int(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"])


@pytest.mark.parametrize(
    ("variant", "moment"),
    [
        (variant, moment)
        for variant in VARIANTS
        for moment in MOMENTS
        if (variant, moment) != ("never_validating", "validation_end")
    ],
)
def test_resumed_run_equals_the_uninterrupted_run(variant: str, moment: str, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, filename="{step}-{epoch}", save_top_k=-1, **MOMENTS[moment])
    whole = run(VARIANTS[variant], saver, seed=1)
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert paths

    for path in paths:
        # Another seed: neither the weights nor the order may come from the resumed process.
        resumed = run(VARIANTS[variant], None, seed=2, path=path)
        assert resumed.seen == whole.seen[steps_before(path) :], path.name
        assert torch.equal(resumed.layer.weight, whole.layer.weight), path.name


@pytest.mark.parametrize("variant", ["plain", "until_a_number_of_steps"])
def test_a_resumed_run_can_be_resumed(variant: str, tmp_path: Path) -> None:
    first = ModelCheckpoint(tmp_path / "first", filename="{step}", save_top_k=-1, **MOMENTS["epoch_end"])
    whole = run(VARIANTS[variant], first, seed=1)
    for path in sorted((tmp_path / "first").glob("*.ckpt")):
        second = ModelCheckpoint(tmp_path / path.stem, filename="{step}", save_top_k=-1, **MOMENTS["every_step"])
        run(VARIANTS[variant], second, seed=2, path=path)
    paths = sorted(tmp_path.glob("step=*/*.ckpt"))
    assert paths

    for path in paths:
        resumed = run(VARIANTS[variant], None, seed=3, path=path)
        assert resumed.seen == whole.seen[steps_before(path) :], path
        assert torch.equal(resumed.layer.weight, whole.layer.weight), path
