"""A last training batch of one image: left out if wanted, and refused or warned of where it would end the run."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn

from lightning_sparse.data import ArrayDataModule, ImageFolderDataModule, InMemoryLoader
from lightning_sparse.data.last_batch import check_last_batch


class Network(LightningModule):
    """Learns from images through these layers, and records the sizes of its batches."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2))
        self.layers(torch.rand(2, 3, 4, 4))
        self.sizes: list[int] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.sizes.append(len(batch[1]))
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def plain() -> Network:
    return Network()


def flat() -> Network:
    """Normalizes features without positions."""
    return Network(nn.Flatten(), nn.BatchNorm1d(48))


def spatial() -> Network:
    return Network(nn.BatchNorm2d(3))


def frozen() -> Network:
    network = flat()
    network.layers[1].eval()
    return network


def arrays(count: int, **options: Any) -> ArrayDataModule:
    images, labels = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8), np.arange(count) % 2
    return ArrayDataModule(images, labels, images, labels, val_fraction=0, **{"batch_size": 8, **options})


def trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    return Trainer(accelerator="cpu", enable_model_summary=False, **{**quiet, **options})


def sizes(network: Network, data: Any, **options: Any) -> list[int]:
    trainer(**options).fit(network, train_dataloaders=None, datamodule=data)
    return network.sizes


pytestmark = [
    pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning"),
    pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning"),
    pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode:UserWarning"),
    pytest.mark.filterwarnings("ignore:You passed in a .val_dataloader. but have no .validation_step.:UserWarning"),
]
REFUSAL = r"Expected at least 2 images in the last training batch, as {} normalizes.*; got 1, of 17 per process in "
REFUSAL += r"batches of 8\. Cure: drop_last=True"


def test_one_image_is_too_few_for_a_flat_normalization_and_refused_before_a_step() -> None:
    network = flat()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):  # what would end the run
        network.layers(torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match=REFUSAL.format(r"layers\.1")):
        sizes(network, arrays(17))
    assert network.sizes == []


def test_one_image_is_warned_of_with_a_normalization_over_positions_and_trained_on() -> None:
    network = spatial()
    with pytest.warns(UserWarning, match=REFUSAL.format(r"layers\.0")):
        sizes(network, arrays(17))
    assert network.sizes == [8, 8, 1]


@pytest.mark.parametrize("make", [plain, frozen])
def test_one_image_is_enough_for_other_networks(make: Any) -> None:
    assert sizes(make(), arrays(17)) == [8, 8, 1]


@pytest.mark.parametrize("make", [plain, flat, spatial])
def test_a_smaller_last_batch_is_left_out_if_wanted(make: Any) -> None:
    assert sizes(make(), arrays(17, drop_last=True)) == [8, 8]


@pytest.mark.parametrize(("count", "expected"), [(16, [8, 8]), (18, [8, 8, 2])])
def test_other_last_batches_are_trained_on(count: int, expected: list[int]) -> None:
    assert sizes(flat(), arrays(count)) == expected


@pytest.mark.parametrize("options", [{"limit_train_batches": 2}, {"limit_train_batches": 0.7}, {"overfit_batches": 1}])
def test_a_last_batch_that_is_never_reached_is_not_refused(options: dict[str, Any]) -> None:
    assert set(sizes(flat(), arrays(17), **options)) == {8}


@pytest.mark.parametrize("options", [{"limit_train_batches": 3}, {"limit_train_batches": 9}, {}])
def test_a_last_batch_that_is_reached_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Expected at least 2 images"):
        sizes(flat(), arrays(17), **options)


def test_evaluation_takes_any_number_of_images() -> None:
    data = arrays(17, eval_batch_size=8, drop_last=True)
    data.setup()
    loader = data.test_dataloader()
    assert isinstance(loader, InMemoryLoader)
    assert [len(labels) for _, labels in loader] == [8, 8, 1]

    class Tested(Network):
        def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            self.sizes.append(len(batch[1]))

    network = Tested(nn.Flatten(), nn.BatchNorm1d(48))
    trainer().test(network, datamodule=arrays(17, eval_batch_size=8), verbose=False)
    assert network.sizes == [8, 8, 1]


@pytest.mark.parametrize(
    ("images", "processes", "refused"), [(17, 1, True), (34, 2, True), (33, 2, True), (20, 2, False)]
)
def test_the_last_batch_is_that_of_each_process(images: int, processes: int, refused: bool) -> None:
    of_many = SimpleNamespace(lightning_module=flat(), world_size=processes, limit_train_batches=1.0)
    if refused:
        with pytest.raises(ValueError, match="got 1, of 17 per process"):
            check_last_batch(of_many, images, 8)
    else:
        check_last_batch(of_many, images, 8)


@pytest.mark.parametrize(("processes", "warned"), [(1, 1), (2, 0)])
def test_a_normalization_over_all_processes_needs_one_image_of_each(processes: int, warned: int) -> None:
    network = nn.Sequential(nn.SyncBatchNorm(3))
    of_many = SimpleNamespace(lightning_module=network, world_size=processes, limit_train_batches=1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_last_batch(of_many, 17 * processes, 8)
    assert len(caught) == warned


def test_the_last_batch_of_images_in_folders_is_checked_too(tmp_path: Path) -> None:
    for number in range(5):
        for part in ("train", "val"):
            folder = tmp_path / part / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 6), (number, 0, 0)).save(folder / f"{number}.png")

    def folders(**options: Any) -> ImageFolderDataModule:
        return ImageFolderDataModule(tmp_path, batch_size=2, num_workers=0, image_size=4, resize=5, **options)

    with pytest.raises(ValueError, match="Expected at least 2 images"):
        sizes(flat(), folders())
    assert sizes(flat(), folders(drop_last=True)) == [2, 2]
    assert sizes(flat(), folders(drop_last=True), overfit_batches=1) == [2]
    assert sizes(plain(), folders()) == [2, 2, 1]
    data = folders(drop_last=True)
    data.setup()
    assert [len(labels) for _, labels in data.val_dataloader()] == [5]
