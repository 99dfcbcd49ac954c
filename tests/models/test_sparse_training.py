"""Every architecture trains sparsely in a Trainer, with an exact budget at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from published import PUBLISHED, images, layers_of, shape_of

from lightning_sparse import SparseMomentumCallback
from lightning_sparse.data import InMemoryLoader
from lightning_sparse.models import ImageClassifier

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a .validation_step. but have no .val_dataloader.:UserWarning"
)
DENSITY = 0.2
FAMILIES = ["lenet-300-100", "lenet-5-caffe", "alexnet-s", "vgg16-c", "vgg16-like", "wrn-16-8", "resnet-50", "mlp"]


class Recount(Callback):
    """Counts the active weights in the model, and the nonzero values outside of them, after every batch."""

    def __init__(self, sparse: SparseMomentumCallback) -> None:
        self.sparse = sparse
        self.active: list[int] = []
        self.stray = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        masks, parameters = self.sparse.network.masks, dict(pl_module.named_parameters())
        self.active.append(sum(int(mask.sum()) for mask in masks.values()))
        self.stray += sum(float((parameters[name].detach() * ~mask).abs().sum()) for name, mask in masks.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_architecture_keeps_its_budget_in_training(name: str) -> None:
    module = ImageClassifier(name, model_options={"width": 0.1})
    before = {key: value.clone() for key, value in module.named_parameters()}
    sparse = SparseMomentumCallback(density=DENSITY, every_n_steps=1)
    recount = Recount(sparse)
    pictures, labels = images(name, 4, side=32 if name == "resnet-50" else None), torch.tensor([0, 1, 2, 3])
    Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[sparse, recount],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, InMemoryLoader(pictures, labels, 2, shuffle=False))
    weights = sum(layer.weight.numel() for layer in layers_of(module).values())
    assert recount.active == [round(DENSITY * weights)] * 4
    assert recount.stray == 0.0
    assert len(sparse.history) > 0
    assert sum(change.pruned for record in sparse.history for change in record.layers.values()) > 0
    assert all(not torch.equal(before[key], value) for key, value in module.named_parameters() if "weight" in key)


def fit(module: ImageClassifier, epochs: int, folder: Path, resume: Path | None = None) -> SparseMomentumCallback:
    generator = torch.Generator().manual_seed(3)
    pictures, labels = torch.randn(8, 1, 28, 28, generator=generator), torch.arange(8)
    sparse = SparseMomentumCallback(density=DENSITY, every_n_steps=2, seed=1)
    Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[sparse, ModelCheckpoint(folder, "{epoch}", every_n_epochs=1, save_top_k=-1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, InMemoryLoader(pictures, labels, 2, shuffle=False), ckpt_path=resume, weights_only=True)
    return sparse


def classifier(*, channels_last: bool) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier("lenet-5-caffe", model_options={"width": 0.2}, channels_last=channels_last)


def test_channels_last_starts_from_the_same_masks_and_trains_alike(tmp_path: Path) -> None:
    plain, last = classifier(channels_last=False), classifier(channels_last=True)
    sparse = [fit(plain, 1, tmp_path / "plain"), fit(last, 1, tmp_path / "last")]
    assert last.model.conv2.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]  # a submodule is a Tensor to mypy
    assert not last.model.conv2.weight.is_contiguous()  # type: ignore[union-attr]  # a submodule is a Tensor to mypy
    assert [each.network.density for each in sparse] == [sparse[0].network.density] * 2
    same = [torch.equal(sparse[0].network.masks[name], mask) for name, mask in sparse[1].network.masks.items()]
    assert all(same)
    for ours, theirs in zip(last.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The dirpath has changed.*:UserWarning")
def test_channels_last_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole, resumed = classifier(channels_last=True), classifier(channels_last=True)
    fit(whole, 3, tmp_path / "whole")
    fit(resumed, 3, tmp_path / "resumed", tmp_path / "whole" / "epoch=0.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_every_architecture_is_among_these() -> None:
    assert {type(shape_of(name)) for name in FAMILIES} == {type(shape_of(name)) for name in PUBLISHED}
