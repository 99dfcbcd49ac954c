"""Loaders beside others in one run: each pass has batches of its own, and a resumed run sees those of the whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn

from lightning_sparse.data import InMemoryLoader, PadCropFlip

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
EPOCHS, LONG, SHORT = 3, 22, 9  # batches of 4: 6 and 3 of them, so that passes end within and at the end of an epoch
MODES = ("max_size_cycle", "max_size", "min_size")


def loader(count: int, seed: int = 0, augment: PadCropFlip | None = None) -> InMemoryLoader:
    """Return a loader of images, each of which shows its number and differs from its mirror image."""
    images = torch.arange(count).view(-1, 1, 1, 1) * 4 + torch.arange(4).view(1, 1, 2, 2)
    return InMemoryLoader(images.float(), torch.arange(count) % 2, 4, shuffle=True, seed=seed, augment=augment)


class Recorder(LightningModule):
    """Trains on two loaders, and records the batches of each, by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.seen: list[dict[str, list[float] | None]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.seen.append({name: part and part[0].flatten().tolist() for name, part in batch.items()})
        present = [part for part in batch.values() if part is not None]
        return sum(nn.functional.cross_entropy(self.layer(x.flatten(1) / 99), y) for x, y in present)  # type: ignore[return-value]  # not 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def of(self, name: str) -> list[list[float]]:
        return [batch[name] for batch in self.seen if batch[name] is not None]  # type: ignore[misc]  # just checked


def run(mode: str, *callbacks: Any, path: Path | None = None, seed: int = 0, **options: Any) -> Recorder:
    torch.manual_seed(seed)
    module = Recorder()
    augment = PadCropFlip(padding=0, flip=True)
    loaders = CombinedLoader({"long": loader(LONG), "short": loader(SHORT, augment=augment)}, mode)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saving = {"callbacks": list(callbacks), "enable_checkpointing": bool(callbacks)}
    Trainer(**{"max_epochs": EPOCHS, **quiet, **saving, **options}).fit(module, loaders, ckpt_path=path)
    return module


def test_no_batch_of_a_loader_that_is_cycled_comes_again() -> None:
    module = run("max_size_cycle")
    assert len(module.of("short")) == len(module.of("long")) == EPOCHS * 6
    for name in ("short", "long"):
        full = [batch for batch in module.of(name) if len(batch) == 16]  # a single image may come again
        assert len(full) >= EPOCHS * 4
        assert all(full.count(batch) == 1 for batch in full)


def test_each_pass_has_every_image_once() -> None:
    seen = run("max_size_cycle").of("short")
    for first in range(0, len(seen), 3):
        images = [int(pixel) // 4 for batch in seen[first : first + 3] for pixel in batch[::4]]
        assert sorted(images) == list(range(SHORT))


@pytest.mark.parametrize("mode", MODES)
def test_the_first_pass_of_an_epoch_has_the_batches_of_a_loader_alone(mode: str) -> None:
    alone = loader(SHORT, augment=PadCropFlip(padding=0, flip=True))
    first = [images.flatten().tolist() for _ in range(EPOCHS) for images, _ in alone]
    seen = run(mode).of("short")
    each = len(seen) // EPOCHS
    assert [batch for epoch in range(EPOCHS) for batch in seen[epoch * each : epoch * each + 3]] == first


@pytest.mark.parametrize(
    ("options", "moment"),
    [
        ({}, {"every_n_train_steps": 1}),
        ({}, {"save_on_train_epoch_end": True}),
        ({"limit_train_batches": 5}, {"every_n_train_steps": 1}),
        ({"max_steps": 14, "max_epochs": -1}, {"every_n_train_steps": 1}),
    ],
    ids=["whole_epochs", "saved_at_their_ends", "left_early", "until_a_number_of_steps"],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_sees_the_batches_of_the_whole_one(
    mode: str, options: dict[str, Any], moment: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(mode, ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **moment), **options)
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert paths
    for path in paths:
        checkpoint = torch.load(path, weights_only=True)
        before = int(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"])
        resumed = run(mode, path=path, seed=1, **options)
        assert resumed.seen == whole.seen[before:], path.name
        assert torch.equal(resumed.layer.weight, whole.layer.weight), path.name


def test_epochs_that_nobody_numbers_are_counted_by_the_loader() -> None:
    counted, numbered = loader(SHORT), loader(SHORT)
    epochs = [[images.flatten().tolist() for images, _ in counted] for _ in range(3)]
    numbered.set_epoch(0)
    passes = [[images.flatten().tolist() for images, _ in numbered] for _ in range(3)]
    assert passes[0] == epochs[0]
    assert all(one not in epochs for one in passes[1:])
    assert passes[1] != passes[2]


def test_a_position_within_a_further_pass_is_restored_and_one_of_a_first_pass_looks_as_before() -> None:
    whole, other = loader(SHORT), loader(SHORT, seed=1)
    whole.set_epoch(2)
    list(whole)
    assert "pass" not in whole.state_dict()
    batches = iter(whole)
    next(batches)
    other.load_state_dict(whole.state_dict())
    other.set_epoch(2)
    assert [images.tolist() for images, _ in other] == [images.tolist() for images, _ in batches]
    with pytest.raises(ValueError, match=r"epoch >= 0.*pass=-1. Cure"):
        other.load_state_dict({**whole.state_dict(), "pass": -1})
