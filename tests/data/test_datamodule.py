"""All data modules: split, statistics, seeds, shares of processes, Trainer and YAML."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor

from lightning_sparse.data import (
    ArrayDataModule,
    DigitsDataModule,
    ImageArrays,
    ImageFolderDataModule,
    InMemoryDataModule,
    InMemoryLoader,
    NpzDataModule,
)

pytestmark = [
    # Lightning 2.6 uses a spelling of PyTorch's tree utilities that PyTorch 2.15 deprecates.
]
COUNT = 57


def numbered(**options: Any) -> ArrayDataModule:
    """Return 57 training images of one pixel, the image's number."""
    images = np.arange(COUNT, dtype=np.uint8)[:, None, None]
    labels = np.arange(COUNT) % 3
    options = {"mean": [0.0], "std": [1 / 255], "batch_size": 8, **options}
    return ArrayDataModule(images, labels, images[:10], labels[:10], **options)


def numbers_in(loader: InMemoryLoader) -> list[int]:
    return [round(pixel) for images, _ in loader for pixel in images.flatten().tolist()]


def ready(**options: Any) -> ArrayDataModule:
    module = numbered(**options)
    module.setup()
    return module


def validation_images(module: InMemoryDataModule) -> list[int]:
    loader = module.val_dataloader()
    assert isinstance(loader, InMemoryLoader)
    return numbers_in(loader)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_the_split_is_exact_and_disjoint(fraction: float) -> None:
    module = ready(val_fraction=fraction)
    val, train = validation_images(module), numbers_in(module.train_dataloader())
    assert len(val) == round(fraction * COUNT)
    assert sorted(val + train) == list(range(COUNT))


def test_the_split_depends_on_its_seed_only() -> None:
    torch.manual_seed(1)
    first = validation_images(ready(shuffle_seed=1))
    torch.manual_seed(2)
    assert validation_images(ready(shuffle_seed=2)) == first
    assert validation_images(ready(split_seed=1)) != first


def test_without_a_validation_fraction_all_images_are_trained_on() -> None:
    module = ready(val_fraction=0)
    assert module.val_dataloader() == []
    assert sorted(numbers_in(module.train_dataloader())) == list(range(COUNT))


def test_evaluation_comes_in_the_order_of_the_data() -> None:
    module = ready()
    assert numbers_in(module.test_dataloader()) == list(range(10))
    assert numbers_in(module.predict_dataloader()) == list(range(10))
    val = validation_images(module)
    assert val == sorted(val) == validation_images(module)


def test_statistics_come_from_the_training_split() -> None:
    module = ready(mean=None, std=None, val_fraction=0.5)
    train = torch.cat([images for images, _ in module.train_dataloader()])
    assert train.mean().item() == pytest.approx(0, abs=1e-5)
    assert train.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_the_global_seed_varies_the_order_and_no_random_number_is_drawn() -> None:
    orders = []
    for seed in (1, 2, 1):
        seed_everything(seed, verbose=False)
        before = torch.get_rng_state()
        orders.append(numbers_in(ready().train_dataloader()))
        assert torch.equal(torch.get_rng_state(), before)
    assert orders[0] == orders[2] != orders[1]


def test_a_shuffle_seed_of_its_own_overrides_the_global_one() -> None:
    orders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        orders.append(numbers_in(ready(shuffle_seed=5).train_dataloader()))
    assert orders[0] == orders[1]


def test_a_second_setup_reads_the_global_seed_again() -> None:
    torch.manual_seed(1)
    module = ready()
    first = numbers_in(module.train_dataloader())
    torch.manual_seed(2)
    module.setup()
    assert numbers_in(module.train_dataloader()) != first


def test_the_state_carries_the_shuffling_seed() -> None:
    torch.manual_seed(1)
    first = ready()
    torch.manual_seed(2)
    second = ready()
    second.load_state_dict(first.state_dict())
    assert numbers_in(second.train_dataloader()) == numbers_in(first.train_dataloader())


class TwoProcesses:
    """Stand-in for a Trainer in two processes, the first of which had seed 7."""

    world_size = 2
    overfit_batches = 0

    def __init__(self, rank: int) -> None:
        self.global_rank = rank
        self.strategy = SimpleNamespace(broadcast=lambda seed: 7)


def test_processes_share_an_epoch_though_their_seeds_differ() -> None:
    shares = []
    for rank in range(2):
        torch.manual_seed(100 + rank)
        module = numbered(val_fraction=7 / COUNT)
        module.trainer = TwoProcesses(rank)  # type: ignore[assignment]  # wrong or foreign on purpose
        module.setup()
        shares.append(numbers_in(module.train_dataloader()))
    assert len(shares[0]) == len(shares[1]) == 25
    assert len(set(shares[0] + shares[1])) == 50


def plain_numbers(module: InMemoryDataModule, split: str = "train") -> list[int]:
    return [round(pixel) for images, _ in module.plain_dataloader(split) for pixel in images.flatten().tolist()]


@pytest.mark.parametrize("options", [{}, {"flip": True, "crop_padding": 1}], ids=str)
def test_plain_batches_are_those_of_the_split_in_order_and_not_augmented(options: dict[str, Any]) -> None:
    module, unchanged = patterned(**options), patterned()
    module.setup()
    unchanged.setup()
    stored = unchanged._splits["train"][0].float()
    twice = [torch.cat([images for images, _ in module.plain_dataloader()]) for _ in range(2)]
    assert unchanged._normalize is not None
    expected, _ = unchanged._normalize((stored, torch.zeros(len(stored))))
    assert all(torch.equal(images, expected) for images in twice)
    augmented = torch.cat([images for images, _ in module.train_dataloader()])
    assert len(augmented) == len(expected)
    assert not torch.equal(augmented, expected)


def test_plain_batches_of_each_split_are_all_of_its_images() -> None:
    module = ready(val_fraction=7 / COUNT)
    assert plain_numbers(module, "val") == validation_images(module)
    assert sorted(plain_numbers(module, "val") + plain_numbers(module)) == list(range(COUNT))
    assert plain_numbers(module, "test") == list(range(10))
    assert plain_numbers(ready(val_fraction=0), "val") == []
    with pytest.raises(ValueError, match="Expected a split from train, val, test; got 'predict'"):
        module.plain_dataloader("predict")
    with pytest.raises(RuntimeError, match="before setup"):
        numbered().plain_dataloader()


def test_plain_batches_of_several_processes_have_no_image_twice() -> None:
    shares = []
    for rank in range(2):
        module = numbered(val_fraction=0)
        module.trainer = TwoProcesses(rank)  # type: ignore[assignment]  # wrong or foreign on purpose
        module.setup()
        shares.append(plain_numbers(module))
    assert sorted(shares[0] + shares[1]) == list(range(COUNT))
    assert [len(share) for share in shares] == [29, 28]
    module = numbered(val_fraction=1 / COUNT)
    module.trainer = TwoProcesses(1)  # type: ignore[assignment]  # wrong or foreign on purpose
    module.setup()
    assert plain_numbers(module, "val") == []  # rank 0 has the only one


def test_batches_before_setup_are_refused() -> None:
    module = numbered()
    with pytest.raises(RuntimeError, match="before setup"):
        module.train_dataloader()
    module.load_state_dict({"shuffle_seed": 1})
    with pytest.raises(RuntimeError, match="before setup"):
        module.train_dataloader()


def patterned(**options: Any) -> ArrayDataModule:
    """57 training images of 4 x 4 pixels, which all differ: the image's number four times, plus 0 to 3 in rows."""
    images = (np.arange(COUNT)[:, None, None] * 4 + np.arange(4)).astype(np.uint8).repeat(4, axis=1)
    labels = np.arange(COUNT)
    options = {"mean": [0.0], "std": [1 / 255], "batch_size": 8, "num_classes": COUNT, **options}
    module = ArrayDataModule(images, labels, images[:10], labels[:10], **options)
    module.setup()
    return module


def differing(batches: InMemoryLoader) -> list[bool]:
    """For each image of an epoch, whether it differs from the stored one, by its label."""
    result = []
    for images, labels in batches:
        stored = labels[:, None, None, None] * 4 + torch.arange(4)
        result += (images.round() != stored).any(dim=(1, 2, 3)).tolist()
    return result


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({}, 0, 0),
        ({"flip": True}, 0.25, 0.75),
        ({"crop_padding": 1}, 0.4, 0.9),
        ({"crop_padding": 2, "flip": True}, 0.6, 1),
    ],
    ids=str,
)
def test_training_images_are_augmented_as_the_options_say(options: dict[str, Any], low: float, high: float) -> None:
    changed = differing(patterned(**options).train_dataloader())
    assert low <= sum(changed) / len(changed) <= high


def test_validation_and_test_images_are_never_augmented() -> None:
    module = patterned(crop_padding=3, flip=True, val_fraction=0.5)
    loaders = module.val_dataloader(), module.test_dataloader(), module.predict_dataloader()
    for loader in loaders:
        assert isinstance(loader, InMemoryLoader)
        assert not any(differing(loader))
    assert any(differing(module.train_dataloader()))


def test_each_epoch_is_augmented_differently_and_a_seed_repeats_it() -> None:
    epochs = []
    for seed in (1, 1, 2):
        loader = patterned(crop_padding=2, shuffle_seed=seed).train_dataloader()
        epochs.append([torch.cat([images[labels.argsort()] for images, labels in loader]) for _ in range(2)])
    assert torch.equal(epochs[0][0], epochs[1][0])
    assert torch.equal(epochs[0][1], epochs[1][1])
    assert not torch.equal(epochs[0][0], epochs[0][1])
    assert not torch.equal(epochs[0][0], epochs[2][0])


def test_a_padding_too_large_for_the_images_is_refused_at_setup() -> None:
    with pytest.raises(ValueError, match=r"padding < 4.*got 4.*Cure"):
        patterned(crop_padding=4)


def test_overfitting_is_not_augmented() -> None:
    module = patterned(crop_padding=2, flip=True)
    module.trainer = SimpleNamespace(overfit_batches=2, global_rank=0, world_size=1)  # type: ignore[assignment]  # foreign on purpose
    assert not any(differing(module.train_dataloader()))


@pytest.mark.parametrize(("on_device", "device"), [(True, "meta"), (False, "cpu")])
def test_images_lie_on_the_trainers_device_if_wanted_and_are_augmented_there(on_device: bool, device: str) -> None:
    module = patterned(crop_padding=2, flip=True, on_device=on_device)
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    module.trainer = SimpleNamespace(overfit_batches=0, global_rank=0, world_size=1, strategy=strategy)  # type: ignore[assignment]  # foreign on purpose
    for loader in (module.train_dataloader(), module.test_dataloader()):
        images, labels = next(iter(loader))
        assert (images.device.type, labels.device.type, images.dtype) == (device, device, torch.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"eval_batch_size": 0},
        {"val_fraction": 1.0},
        {"val_fraction": -0.1},
        {"crop_padding": -1},
        {"mean": [0.1], "std": None},
        {"mean": [0.1], "std": [0.0]},
        {"batch_size": True},
        {"eval_batch_size": True},
        {"val_fraction": False},
        {"split_seed": True},
        {"shuffle_seed": False},
        {"crop_padding": False},
        {"mean": [False], "std": [True]},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Expected .* got"):
        numbered(**options)


@pytest.mark.parametrize("options", [{"val_fraction": 0.999}, {"mean": [0.1] * 3, "std": [1.0] * 3}], ids=str)
def test_options_that_do_not_fit_the_data_are_refused_at_setup(options: dict[str, Any]) -> None:
    module = numbered(**options)
    with pytest.raises(ValueError, match=r"Expected .* got"):
        module.setup()


@pytest.mark.parametrize("count", [1, 4, 5])
def test_a_validation_fraction_of_less_than_an_image_is_refused_with_the_cure(count: int) -> None:
    images, labels = np.zeros((count, 2, 2), np.uint8), np.zeros(count, int)
    with pytest.raises(ValueError, match=rf"hold out at least one image; got 0.1 of {count} images.*Cure: 0 for no"):
        ArrayDataModule(images, labels, images, labels, val_fraction=0.1).setup()
    ArrayDataModule(images, labels, images, labels, val_fraction=0).setup()


class Blank(InMemoryDataModule):
    """A new data set is one class with one method."""

    def _load(self) -> ImageArrays:
        images, labels = torch.zeros(20, 3, 4, 4, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64)
        return ImageArrays(images, labels, images, labels, num_classes=2, mean=(0.5,) * 3, std=(0.25,) * 3)


def test_the_customary_statistics_of_a_data_set_are_used_unless_others_are_given() -> None:
    given = {"mean": [0.0] * 3, "std": [1.0] * 3}
    for module, pixel in ((Blank(), -2.0), (Blank(**given), 0.0)):
        module.setup()
        assert next(iter(module.train_dataloader()))[0].unique().tolist() == [pixel]


def test_a_data_module_knows_its_classes_after_setup() -> None:
    images, labels = np.zeros((10, 2, 2), np.uint8), np.arange(10) % 3
    expected = {Blank(): 2, numbered(): 3, numbered(num_classes=7): 7, DigitsDataModule(): 10}
    for module in expected:
        module.setup()
    assert {module: module.num_classes for module in expected} == expected
    assert DigitsDataModule().num_classes is None
    assert ArrayDataModule(images, labels, images, labels).num_classes == 3


@pytest.mark.parametrize("given", [None, 5])
def test_each_data_module_counts_the_classes_of_its_own_file(given: int | None, tmp_path: Path) -> None:
    images, labels, path = np.zeros((10, 2, 2), np.uint8), np.arange(10) % 3, tmp_path / "images.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    module = NpzDataModule(path, num_classes=given)
    assert module.num_classes == given
    module.setup()
    assert module.num_classes == (given or 3)


class Watcher(BoringModel):
    """Records the images it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 2)
        self.seen: list[list[int]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch[0].flatten().int().tolist())
        return self.layer(batch[0].flatten(1)).sum()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    test_step = validation_step

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return batch[1]


def trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **options)


def test_a_trainer_runs_all_stages() -> None:
    module, data = Watcher(), numbered()
    runner = trainer(max_epochs=2)
    runner.fit(module, data)
    runner.test(module, data, verbose=False)
    predictions = runner.predict(module, data)
    epochs = [[n for batch in module.seen[start : start + 7] for n in batch] for start in (0, 7)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    assert torch.equal(predictions[0], torch.arange(10) % 3)  # type: ignore[index,arg-type]  # wrong or foreign on purpose


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero:UserWarning")
def test_a_trainer_runs_without_validation_images() -> None:
    module = Watcher()
    trainer(max_epochs=1).fit(module, numbered(val_fraction=0))
    assert len(module.seen) == 8


@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning")
def test_overfitting_sees_the_same_batches_in_every_epoch() -> None:
    module = Watcher()
    trainer(max_epochs=2, overfit_batches=2).fit(module, numbered())
    assert module.seen[:2] == module.seen[2:]


@pytest.fixture
def no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["test"])
    # Lightning 2.6 calls a method that jsonargparse 4.53 deprecates.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def build(config: dict[str, Any]) -> LightningDataModule:
    cli = LightningCLI(
        BoringModel,
        LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=None,
        run=False,
        args={"seed_everything": False, "data": config, "trainer": {"logger": False, "accelerator": "cpu"}},
    )
    return cli.datamodule


@pytest.mark.usefixtures("no_command_line")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("NpzDataModule", {"path": "images.npz", "num_classes": 10}),
        ("MNISTDataModule", {"data_dir": "somewhere", "download": False}),
        ("FashionMNISTDataModule", {"data_dir": "somewhere", "download": False}),
        ("CIFAR10DataModule", {"data_dir": "somewhere", "download": False, "crop_padding": 2}),
        ("CIFAR100DataModule", {"data_dir": "somewhere", "flip": False}),
        ("DigitsDataModule", {"test_fraction": 0.5}),
        ("ImageFolderDataModule", {"data_dir": "somewhere", "num_workers": 2}),
        ("ImageNetDataModule", {"data_dir": "somewhere", "image_size": 160}),
    ],
)
def test_yaml_builds_every_data_module_with_its_own_and_the_common_options(
    name: str, arguments: dict[str, Any]
) -> None:
    common = {"batch_size": 7, "shuffle_seed": 3, "mean": [0.5], "std": [0.25]}
    module = build({"class_path": f"lightning_sparse.data.{name}", "init_args": {**arguments, **common}})
    assert type(module).__name__ == name
    assert isinstance(module, (InMemoryDataModule, ImageFolderDataModule))
    assert {key: getattr(module, key) for key in arguments} == arguments
    assert (module.batch_size, module.shuffle_seed) == (7, 3)
    assert (module.mean, module.std) == ([0.5], [0.25])


@pytest.mark.usefixtures("no_command_line")
def test_yaml_with_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build({"class_path": "lightning_sparse.data.DigitsDataModule", "init_args": {"batchsize": 7}})
    assert "batchsize" in capsys.readouterr().err


def test_without_a_split_seed_the_last_images_are_held_out_in_order() -> None:
    module = ready(val_fraction=0.25, split_seed=None)
    assert validation_images(module) == list(range(COUNT - round(0.25 * COUNT), COUNT))
    assert sorted(numbers_in(module.train_dataloader())) == list(range(COUNT - round(0.25 * COUNT)))
