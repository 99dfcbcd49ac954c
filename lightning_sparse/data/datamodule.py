"""Base of the data modules for image data sets in memory: split, statistics and loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from lightning_sparse.data.arrays import ImageArrays, check_pixels
from lightning_sparse.data.augment import PadCropFlip, check_padding
from lightning_sparse.data.in_memory_loader import InMemoryLoader
from lightning_sparse.data.last_batch import check_last_batch
from lightning_sparse.data.normalize import Batch, Normalize
from lightning_sparse.data.seeded_datamodule import SeededDataModule, check_batch_sizes, check_seed_or_none
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import is_real


class InMemoryDataModule(SeededDataModule, ABC):
    """Training, validation and test batches of a data set that fits in memory.

    A subclass for a new data set defines one method, `_load`. In a distributed run each process gets its own
    share of every split; a few images come twice where a split cannot be divided evenly.

    Args:
        batch_size: Training images per step and process, >= 1.
        eval_batch_size: Images per validation, test and prediction batch and process, >= 1.
        drop_last: Whether to leave out a last training batch that is smaller than the others: batch normalization
            can't train on a single image.
        val_fraction: Fraction of the training images held out for validation, in [0, 1): round(val_fraction *
            images) of them. 0: no validation.
        split_seed: Seed for choosing the held-out images, independent of all other seeds. None: the last images of
            the data set, as in the code of sparse momentum.
        shuffle_seed: Seed for the order and the augmentation of the training images. None: the seed of PyTorch's
            global generator at setup, so that ``seed_everything`` varies them; no random number is drawn for it. A
            resumed run keeps the seed in the checkpoint.
        mean: Mean to subtract from the pixels, one value per channel, in units in which black is 0 and white is 1.
            None: the customary mean of the data set, or else the mean of the training split.
        std: Standard deviation to divide the pixels by, > 0, one value per channel, same units; needs ``mean``.
        crop_padding: Pixels of reflective padding on each side of a training image before it is cropped to its size
            at a random place, >= 0 and less than its sides. 0: no crops.
        flip: Whether a random half of the training images is flipped left to right, another half in each epoch.
        on_device: Whether all images are stored on the Trainer's device, as bytes, and augmented there; otherwise
            finished batches are moved there. The batches are the same in either case.

    Validation and test images are never augmented. (The code of Dettmers & Zettlemoyer, 2019, augments the validation
    images of CIFAR, too, so its validation errors are not comparable.) Nor are training images while Lightning's
    ``overfit_batches`` is set.

    Raises:
        ValueError: If an option is outside its range.
    """

    def __init__(
        self,
        *,
        batch_size: int = 100,
        eval_batch_size: int = 1000,
        drop_last: bool = False,
        val_fraction: float = 0.1,
        split_seed: int | None = 0,
        shuffle_seed: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        crop_padding: int = 0,
        flip: bool = False,
        on_device: bool = False,
    ) -> None:
        super().__init__(shuffle_seed)
        check_batch_sizes(batch_size, eval_batch_size)
        _check_fraction(val_fraction)
        check_seed_or_none("split_seed", split_seed)
        _check_statistics(mean, std)
        PadCropFlip(crop_padding, flip)  # raises on an invalid padding
        self.batch_size, self.eval_batch_size, self.drop_last = batch_size, eval_batch_size, drop_last
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.mean, self.std = mean, std
        self.crop_padding, self.flip, self.on_device = crop_padding, flip, on_device
        self._splits: dict[str, Batch] = {}
        self._normalize: Normalize | None = None

    @abstractmethod
    def _load(self) -> ImageArrays:
        """Read the data set. Called once, in `setup`, in every process."""

    def setup(self, stage: str = "fit") -> None:
        """Load and split the data, once, and set the shuffling seed, each time.

        Args:
            stage: "fit", "validate", "test" or "predict". All of them need the statistics of the training split.

        Raises:
            ValueError: If data and options don't fit together, or the last batch of "fit" would have one image only,
                on which the Trainer's network can't be trained.
        """
        self.settle_seed()
        if not self._splits:
            arrays = self._load()
            check_padding(self.crop_padding, *arrays.x_train.shape[2:])
            self._splits = _split(arrays, self.val_fraction, self.split_seed)
            self._normalize = self._normalization(arrays)
            self.num_classes = arrays.num_classes
        if stage == "fit" and not self.drop_last:
            check_last_batch(self.trainer, len(self._splits["train"][1]), self.batch_size)

    def train_dataloader(self) -> InMemoryLoader:
        """Return shuffled training batches, whose position is saved in checkpoints."""
        return self._loader("train", self.batch_size, train=not self._overfits())

    def val_dataloader(self) -> InMemoryLoader | list[InMemoryLoader]:
        """Return validation batches in a fixed order, or an empty list if no images are held out."""
        if self.val_fraction == 0:
            return []
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> InMemoryLoader:
        """Return test batches in the order of the data set."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> InMemoryLoader:
        """Return the test batches, labels included."""
        return self.test_dataloader()

    def plain_dataloader(self, split: str = "train") -> InMemoryLoader | list[Batch]:
        """Return batches of a split for measurements: in the order of the data set, never augmented.

        In a distributed run each process gets its own share, and no image comes twice.

        Args:
            split: "train", "val" or "test".

        Raises:
            ValueError: If there is no such split.
            RuntimeError: If `setup` wasn't called.
        """
        options = self._loader_options(loaded=bool(self._splits))
        sizes = {name: len(self._splits[name][1]) for name in ("train", "val", "test")}
        if not self._rank_has_images(split, sizes):
            return []
        return InMemoryLoader(
            *self._splits[split], self.eval_batch_size, shuffle=False, transform=self._normalize, even=False, **options
        )

    def _normalization(self, arrays: ImageArrays) -> Normalize:
        mean, std = (self.mean, self.std) if self.mean is not None else (arrays.mean, arrays.std)
        train_images = self._splits["train"][0]
        if mean is None or std is None:
            return Normalize.fit(train_images, arrays.white)
        if len(mean) not in (1, train_images.shape[1]):
            raise InvalidValueError(
                expected=f"one mean and std per channel, {train_images.shape[1]}",
                got=len(mean),
                cure="leave both out to have them computed",
            )
        check_pixels(arrays, mean, std)
        return Normalize(mean, std, arrays.white)

    def _loader(self, split: str, batch_size: int, *, train: bool = False) -> InMemoryLoader:
        options = self._loader_options(loaded=split in self._splits)
        images, labels = self._splits[split]
        # Validation and test images are never augmented.
        augment = PadCropFlip(self.crop_padding, self.flip) if train and (self.crop_padding or self.flip) else None
        if self.on_device and self.trainer is not None:
            images = images.to(self.trainer.strategy.root_device)
        return InMemoryLoader(
            images,
            labels,
            batch_size,
            shuffle=train,
            drop_last=self.drop_last and split == "train",
            augment=augment,
            transform=self._normalize,
            **options,
        )


def _split(arrays: ImageArrays, val_fraction: float, seed: int | None) -> dict[str, Batch]:
    count = len(arrays.x_train)
    held_out = round(val_fraction * count)
    if held_out == count:
        raise InvalidValueError(
            expected="val_fraction to leave images to train on",
            got=f"{val_fraction} of {count} images",
            cure="lower it",
        )
    if held_out == 0 and val_fraction > 0:
        raise InvalidValueError(
            expected="val_fraction to hold out at least one image",
            got=f"{val_fraction} of {count} images, which is none",
            cure="0 for no validation, or a larger fraction",
        )
    if seed is None:
        order = torch.arange(count - 1, -1, -1)
    else:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    # Sorted, so that each split keeps the order of the data set.
    parts = {"val": order[:held_out].sort().values, "train": order[held_out:].sort().values}
    splits = {name: (arrays.x_train[index], arrays.y_train[index]) for name, index in parts.items()}
    return {**splits, "test": (arrays.x_test, arrays.y_test)}


def _check_fraction(val_fraction: float) -> None:
    if not is_real(val_fraction, 0, 1) or val_fraction == 1:
        raise InvalidValueError(
            expected="0 <= val_fraction < 1",
            got=repr(val_fraction),
            cure="give the fraction of the training images to hold out, such as 0.1",
        )


def _check_statistics(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    if (mean is None) != (std is None):
        raise InvalidValueError(
            expected="mean and std together",
            got=f"mean={mean}, std={std}",
            cure="give both or neither",
        )
    if mean is not None and std is not None:
        Normalize(mean, std)  # raises on invalid lengths and values
