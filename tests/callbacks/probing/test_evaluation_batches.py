"""Measurements read every image once, whatever loader a project has."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from tiny_images import CLASSES, IMAGES, Images, Validated, assert_close, data, expected, fit, loader
from tiny_training import differences, trainer
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_sparse import ClassSpecializationCallback
from lightning_sparse.callbacks.probing.evaluation_batches import evaluation_batches
from lightning_sparse.data import ArrayDataModule

NUMBERS = TensorDataset(torch.arange(10))
Measured = dict[str, dict[str, Tensor]]


def measured(train: Any = None, module: Any = None, **options: Any) -> tuple[Measured, Any]:
    """Train and return the results and the module."""
    callback = ClassSpecializationCallback(**options)
    run = fit(callback, module=module, train=train)
    assert callback.result is not None
    return callback.result, run.lightning_module


def process(rank: int = 0, world_size: int = 1, shares: bool = True) -> Any:
    """Return a stand-in for the Trainer of one of several processes."""
    connector = SimpleNamespace(use_distributed_sampler=shares)
    return SimpleNamespace(global_rank=rank, world_size=world_size, _accelerator_connector=connector)


def numbers(batches: Any, rank: int = 0, world_size: int = 1, shares: bool = True) -> list[int]:
    """Return the numbers that a process reads."""
    run = process(rank, world_size, shares)
    with evaluation_batches(run, Images(), batches) as plain:
        return [[number for batch in plain for number in batch[0].reshape(-1).tolist()] for _ in range(2)][1]


# Loaders of any project


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4, "shuffle": True, "drop_last": True},
        {"batch_size": 3, "sampler": WeightedRandomSampler([1.0] + [0.1] * 9, 10)},
        {"batch_sampler": BatchSampler(RandomSampler(NUMBERS), 4, drop_last=True)},
        {"batch_size": None, "shuffle": True},
    ],
    ids=["shuffled", "weighted", "batches", "no batches"],
)
def test_all_of_a_data_set_is_iterated_in_order(options: dict[str, Any]) -> None:
    assert numbers(DataLoader(NUMBERS, **options)) == list(range(10))


def test_batches_have_the_size_and_the_collation_of_the_run() -> None:
    seen: list[Any] = []
    batches = DataLoader(NUMBERS, 4, shuffle=True, collate_fn=lambda items: seen.append(len(items)) or items[0])
    numbers(batches)
    assert seen == [4, 4, 2] * 2


@pytest.mark.parametrize("wrapped", [False, True])
def test_images_that_are_held_out_by_indices_are_not_measured(wrapped: bool) -> None:
    sampler: Any = SubsetRandomSampler([7, 2, 5])
    if wrapped:  # as Lightning does it with several processes
        sampler = DistributedSamplerWrapper(sampler, num_replicas=2, rank=0)
    batches = DataLoader(NUMBERS, 2, sampler=sampler)
    assert numbers(batches) == [2, 5, 7]
    assert [numbers(batches, rank, 2) for rank in range(2)] == [[2, 7], [5]]
    assert numbers(DataLoader(NUMBERS, batch_sampler=BatchSampler(sampler, 2, drop_last=True))) == [2, 5, 7]


@pytest.mark.parametrize("world_size", [2, 3, 12])
def test_processes_share_a_data_set_without_an_image_twice(world_size: int) -> None:
    shares = [numbers(DataLoader(NUMBERS, 4, shuffle=True), rank, world_size) for rank in range(world_size)]
    assert sorted(number for share in shares for number in share) == list(range(10))


def test_where_lightning_does_not_divide_the_data_only_a_distributed_sampler_does() -> None:
    own = DataLoader(NUMBERS, 4, shuffle=True)
    assert [numbers(own, rank, 2, shares=False) for rank in range(2)] == [list(range(10))] * 2
    shares = [
        numbers(DataLoader(NUMBERS, 4, sampler=DistributedSampler(NUMBERS, 2, rank)), rank, 2, shares=False)
        for rank in range(2)
    ]
    assert shares == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


class Stream(IterableDataset[Any]):
    """Has no length, and counts how often it is iterated."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(data())


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from data()


def test_a_stream_is_iterated_as_it_is() -> None:
    stream = Stream()
    results, module = measured(DataLoader(stream, batch_size=4))
    assert_close(results["net.first"], expected(module, "net.first"))
    assert stream.passes == 2  # in training


def test_of_an_endless_stream_as_many_batches_are_measured_as_an_epoch_has() -> None:
    callback = ClassSpecializationCallback(num_classes=CLASSES)
    run = fit(callback, train=DataLoader(Endless(), batch_size=4), limit_train_batches=3)
    first = TensorDataset(*(tensor[:12] for tensor in data().tensors))
    assert callback.result is not None
    assert_close(callback.result["net.first"], expected(run.lightning_module, "net.first", first))


class OneStream(IterableDataset[Any]):
    """Can be iterated once."""

    def __init__(self, images: int = IMAGES) -> None:
        self.images = iter(data(images))

    def __iter__(self) -> Iterator[Any]:
        return self.images


class Resetting(IterableDataset[Any]):
    """Is its own iterator, and starts from the beginning each time."""

    def __iter__(self) -> Any:
        self.place = 0
        return self

    def __next__(self) -> Any:
        if self.place == IMAGES:
            raise StopIteration
        self.place += 1
        return data()[self.place - 1]


def seen_in_training(dataset: Any, *callbacks: Any, **options: Any) -> tuple[int, Any]:
    """Train for an epoch, and return the number of images and the module."""
    seen: list[int] = []

    class Counting(Images):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.append(len(batch[1]))
            return super().training_step(batch, batch_idx)

    run = fit(*callbacks, module=Counting(), train=DataLoader(dataset, batch_size=4), max_epochs=1, **options)
    return sum(seen), run.lightning_module


def test_a_single_iterator_is_not_read_before_training_and_its_rest_is_measured() -> None:
    callback = ClassSpecializationCallback(num_classes=CLASSES)
    images, module = seen_in_training(OneStream(), callback, limit_train_batches=3)
    assert images == 12
    rest = TensorDataset(*(tensor[12:] for tensor in data().tensors))
    assert callback.result is not None
    assert_close(callback.result["net.first"], expected(module, "net.first", rest))


def test_an_exhausted_iterator_is_a_warning() -> None:
    callback = ClassSpecializationCallback(num_classes=CLASSES)
    with pytest.warns(UserWarning, match="after 1 epochs; got InvalidValueError: Expected data and layers"):
        images, _ = seen_in_training(OneStream(), callback)
    assert images == IMAGES
    assert callback.result is None


@pytest.mark.parametrize("options", [{}, {"num_classes": CLASSES, "every_n_epochs": 1}], ids=["count", "often"])
def test_options_that_would_read_a_single_iterator_before_training_are_an_error(options: dict[str, Any]) -> None:
    stream = OneStream()
    with pytest.raises(TypeError, match=r"Expected data that can be iterated again.* got .* single iterator.* Cure: "):
        seen_in_training(stream, ClassSpecializationCallback(**options))
    assert len(list(stream)) == IMAGES - 4  # the batch that Lightning fetches ahead


def test_unknown_layers_are_an_error_before_training_also_with_a_single_iterator() -> None:
    with pytest.raises(ValueError, match="Expected layers that 'nothing' matches"):
        seen_in_training(OneStream(), ClassSpecializationCallback("nothing", num_classes=CLASSES))


def test_a_data_set_that_is_its_own_iterator_is_measured_as_any_other() -> None:
    callback = ClassSpecializationCallback(num_classes=CLASSES)
    images, module = seen_in_training(Resetting(), callback)
    assert images == IMAGES
    assert callback.result is not None
    assert_close(callback.result["net.first"], expected(module, "net.first"))


# Subclasses of DataLoader


class Doubling(DataLoader[Any]):
    """Changes its batches as it returns them."""

    def __iter__(self) -> Any:
        return ([2 * each for each in batch] for batch in super().__iter__())


class DoublingInside(DataLoader[Any]):
    """Changes its batches in its iterator."""

    def _get_iterator(self) -> Any:
        return ([2 * each for each in batch] for batch in super()._get_iterator())


class Persistent(DataLoader[Any]):
    """Holds its iterator, and with it its workers."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.running = iter(super().__iter__())

    def __iter__(self) -> Any:
        return (next(self.running) for _ in range(len(self)))


@pytest.mark.parametrize("kind", [Doubling, DoublingInside])
@pytest.mark.parametrize("options", [{"shuffle": True, "drop_last": True}, {"sampler": SubsetRandomSampler([7, 2, 5])}])
def test_a_subclass_of_dataloader_changes_its_batches_but_not_the_order(kind: Any, options: dict[str, Any]) -> None:
    batches = kind(NUMBERS, batch_size=4, **options)
    before = dict(vars(batches))
    wanted = [2 * number for number in ([2, 5, 7] if "sampler" in options else range(10))]
    assert numbers(batches) == wanted
    assert [numbers(batches, rank, 2) for rank in range(2)] == [wanted[::2], wanted[1::2]]
    assert vars(batches) == before


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_loader_with_persistent_workers_keeps_its_position() -> None:
    batches = Doubling(NUMBERS, batch_size=4, num_workers=1, persistent_workers=True)
    running = iter(batches)
    assert next(running)[0].tolist() == [0, 2, 4, 6]
    assert numbers(batches) == list(range(0, 20, 2))
    assert next(running)[0].tolist() == [8, 10, 12, 14]


def test_a_loader_that_holds_an_iterator_is_refused_and_keeps_its_position() -> None:
    batches = Persistent(NUMBERS, batch_size=4)
    with pytest.raises(
        TypeError, match=r"got a Persistent, which holds an iterator, running\. Cure: .* a plain DataLoader"
    ):
        numbers(batches)
    assert next(iter(batches))[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("form", [list, lambda batches: {"images": batches[0]}, CombinedLoader])
def test_one_loader_may_be_wrapped_and_several_are_refused(form: Any) -> None:
    class Either(Images):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])

    one = form([loader()])
    results, module = measured(one, Either())
    assert_close(results["net.first"], expected(module, "net.first"))
    with pytest.raises(ValueError, match=r"Expected one train loader; got 2\. Cure: "):
        measured([loader(), loader()], Either())


# Batches that the user passes


@pytest.mark.parametrize("form", ["loader", "shuffled", "list"])
def test_batches_that_the_user_passes_are_measured(form: str) -> None:
    other = data(9, seed=5)
    batches: Any = DataLoader(other, batch_size=2, shuffle=form == "shuffled")
    results, module = measured(dataloader=list(batches) if form == "list" else batches, every_n_epochs=1)
    assert_close(results["net.first"], expected(module, "net.first", other))


class Splits(LightningDataModule):
    """A user's data module, with other images for each purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []

    def setup(self, stage: str) -> None:
        self.stages = [*self.stages, stage]
        if stage == "fit":
            self.train, self.val = data(), data(8, seed=3)
        else:
            self.test = data(7, seed=2)

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=4, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, batch_size=4)

    def test_dataloader(self) -> Any:
        return DataLoader(self.test, batch_size=4)


SPLITS = {"train": data(), "val": data(8, seed=3), "test": data(7, seed=2)}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("when", ["fit", "test"])
def test_each_split_of_a_data_module_is_measured_in_fit_and_in_test(split: str, when: Any) -> None:
    callback, images = ClassSpecializationCallback(dataloader=split, when=when), Splits()
    run, model = trainer(callback, max_epochs=1), Validated()
    if when == "fit":
        run.fit(model, images)
    else:
        run.test(model, images, verbose=False)
    assert callback.result is not None
    assert_close(callback.result["net.first"], expected(model, "net.first", SPLITS[split]))
    assert images.stages == [when]  # the measurement sets up a copy


class WithLoaders(Validated):
    """Has loaders of its own."""

    def train_dataloader(self) -> Any:
        return DataLoader(SPLITS["train"], batch_size=4, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(SPLITS["val"], batch_size=4)

    def test_dataloader(self) -> Any:
        return DataLoader(SPLITS["test"], batch_size=4)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("when", ["fit", "test"])
def test_each_split_of_a_module_is_measured_in_fit_and_in_test(split: str, when: Any) -> None:
    callback = ClassSpecializationCallback(dataloader=split, when=when)
    run, model = trainer(callback, max_epochs=1), WithLoaders()
    if when == "fit":
        run.fit(model)
    else:
        run.test(model, verbose=False)
    assert callback.result is not None
    assert_close(callback.result["net.first"], expected(model, "net.first", SPLITS[split]))


@pytest.mark.parametrize("split", ["val", "test"])
def test_data_that_a_run_does_not_have_are_an_error_before_training(split: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected one {split} loader; got 0\. Cure: pass .* as dataloader"):
        measured(dataloader=split)


def test_data_of_an_earlier_run_are_not_measured() -> None:
    callback = ClassSpecializationCallback()
    run = trainer(callback, max_epochs=1)
    run.fit(Validated(), ArrayDataModule(*arrays(), *arrays(), batch_size=4))
    module = Images()
    run.fit_loop.epoch_progress.reset()
    run.fit(module, loader())
    assert callback.result is not None
    assert_close(callback.result["net.first"], expected(module, "net.first"))


# Data that are augmented


def arrays(images: int = 30) -> tuple[Any, Any]:
    source = torch.Generator().manual_seed(7)
    return (
        torch.randint(256, (images, 6, 6), dtype=torch.uint8, generator=source).numpy(),
        torch.randint(CLASSES, (images,), generator=source).numpy(),
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_of_this_packages_data_modules_are_not_augmented(split: str) -> None:
    images = ArrayDataModule(*arrays(), *arrays(), batch_size=4, flip=True, crop_padding=2, val_fraction=0.2)
    results, module = measured_with(images, dataloader=split)
    batches = list(images.plain_dataloader(split))
    whole = TensorDataset(torch.cat([each for each, _ in batches]), torch.cat([labels for _, labels in batches]))
    assert len(whole) == {"train": 24, "val": 6}[split]
    assert_close(results["net.first"], expected(module, "net.first", whole))


def measured_with(images: LightningDataModule, **options: Any) -> tuple[Measured, Any]:
    callback, module = ClassSpecializationCallback(num_classes=CLASSES, **options), Validated()
    trainer(callback, max_epochs=2).fit(module, images)
    assert callback.result is not None
    return callback.result, module


class Foreign(Splits):
    """Provides the evaluation batches."""

    def plain_dataloader(self, split: str) -> Any:
        return DataLoader(data(6, seed=len(split)), batch_size=4)


def test_a_data_module_may_provide_the_evaluation_batches() -> None:
    results, module = measured_with(Foreign())
    assert_close(results["net.first"], expected(module, "net.first", data(6, seed=5)))


class Augmented(Dataset[Any]):
    """Changes its images at random, each time."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> Any:
        image, label = data()[index]
        return image + torch.rand(()), label


def test_a_data_set_that_augments_is_measured_as_it_is_and_the_run_does_not_change() -> None:
    def weights(*callbacks: Any) -> dict[str, Tensor]:
        run = fit(*callbacks, train=DataLoader(Augmented(), batch_size=4, shuffle=True))
        return {name: value.clone() for name, value in run.lightning_module.state_dict().items()}

    callback = ClassSpecializationCallback(every_n_epochs=1)
    assert differences(weights(callback), weights()) == []
    assert callback.result is not None


class TransferAugmenting(Images):
    """Augments on the device while it trains, as Lightning's documentation shows."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer is not None
        return (batch[0] * 0, batch[1]) if self.trainer.training else (batch[0] * 2, batch[1])


def test_hooks_of_batches_are_those_of_validation() -> None:
    results, module = measured(module=TransferAugmenting())
    images, labels = data().tensors
    assert_close(results["net.first"], expected(module, "net.first", TensorDataset(2 * images, labels)))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_may_read_the_images() -> None:
    results, module = measured(loader(num_workers=1), num_classes=CLASSES)
    assert_close(results["net.first"], expected(module, "net.first"))


def test_batches_that_can_be_iterated_only_once_are_refused() -> None:
    run = process()
    for batches in (iter([1]), 3):
        with (
            pytest.raises(TypeError, match="Expected batches that can be iterated more than once; got a "),
            evaluation_batches(run, Images(), batches),
        ):
            pass
