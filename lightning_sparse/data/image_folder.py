"""ImageNet, and any other images that lie in one folder per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.data.class_folders import check_every_class_has_images, class_folders, list_images
from lightning_sparse.data.image_files import ImageFileLoader, ImageFiles
from lightning_sparse.data.last_batch import check_last_batch
from lightning_sparse.data.normalize import Batch, Normalize
from lightning_sparse.data.seeded_datamodule import SeededDataModule, check_batch_sizes
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import is_integer


class ImageFolderDataModule(SeededDataModule):
    """Images of any size in one folder per class, read while training, with ImageNet's customary pipeline.

    Grey images become RGB, and images of 16 bits a channel are scaled to 8; reading one of 32 bits, whose white is
    unknown, is an error.

    Training images: a random part of 8 to 100 % of the area, resized to ``image_size``, half of them flipped. Others:
    the shorter side resized to ``resize``, the central ``image_size`` cut out. Batches have the shape
    ``(batch, 3, image_size, image_size)``. In a distributed run each process gets its own share of every split; a few
    images come twice where a split cannot be divided evenly. A run resumed at any step sees the same batches, the same
    augmentation included, and ``num_workers`` doesn't change them either.

    Args:
        data_dir: Folder that contains ``train`` and ``val``, and in them one folder per class, the same ones. Labels
            are the positions of ``train``'s classes in alphabetical order.
        test_folder: Folder in ``data_dir`` with the test images, one folder per class. None: the validation images, as
            is usual for ImageNet.
        batch_size: Training images per step and process, >= 1.
        eval_batch_size: Images per validation, test and prediction batch and process, >= 1.
        drop_last: Whether to leave out a last training batch that is smaller than the others: batch normalization
            can't train on a single image.
        num_workers: Number of processes per loader that read images, >= 0. 0: the training process reads.
        image_size: Height and width of the network's input, in pixels, >= 1.
        resize: Length in pixels to which the shorter side of validation and test images is resized, >= image_size.
        shuffle_seed: Seed for the order and the augmentation of the training images. None: the seed of PyTorch's
            global generator at setup, so that ``seed_everything`` varies them.
        mean: Mean to subtract from the pixels (black 0, white 1), one value per channel. Default: ImageNet's.
        std: Standard deviation to divide the pixels by, > 0, one value per channel. Default: ImageNet's.

    Raises:
        ValueError: If an option is outside its range.
    """

    def __init__(
        self,
        data_dir: str | Path,
        *,
        test_folder: str | None = None,
        batch_size: int = 256,
        eval_batch_size: int = 256,
        drop_last: bool = False,
        num_workers: int = 4,
        image_size: int = 224,
        resize: int = 256,
        shuffle_seed: int | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__(shuffle_seed)
        check_batch_sizes(batch_size, eval_batch_size)
        _check_workers_and_sizes(num_workers, image_size, resize)
        Normalize(mean, std)  # raises on invalid values
        if len(mean) not in (1, 3):
            raise InvalidValueError(
                expected="one mean and std for each of 3 colours",
                got=len(mean),
                cure="the defaults are ImageNet's",
            )
        self.data_dir, self.test_folder = data_dir, test_folder
        self.batch_size, self.eval_batch_size, self.drop_last = batch_size, eval_batch_size, drop_last
        self.num_workers = num_workers
        self.image_size, self.resize = image_size, resize
        self.mean, self.std = mean, std
        self._files: dict[str, ImageFiles] = {}

    def setup(self, stage: str = "fit") -> None:
        """List the images, once, and set the shuffling seed, each time.

        Args:
            stage: "fit", "validate", "test" or "predict". All of them need the classes of the training folder.

        Raises:
            FileNotFoundError: If a folder is missing.
            ValueError: If a folder lacks images or has other classes, or the last batch of "fit" would have one image
                only, on which the Trainer's network can't be trained.
        """
        self.settle_seed()
        if not self._files:
            root = Path(self.data_dir).expanduser()
            classes = self._classes(root / "train")
            augmented, plain = self.train_transform(), self.eval_transform()
            train, val = list_images(root / "train", classes, augmented), list_images(root / "val", classes, plain)
            check_every_class_has_images(train)
            test = val if self.test_folder is None else list_images(root / self.test_folder, classes, plain)
            self._files = {"train": train, "overfit": train.transformed_by(plain), "val": val, "test": test}
            self.num_classes = len(classes)
        if stage == "fit" and not self.drop_last:
            check_last_batch(self.trainer, len(self._files["train"]), self.batch_size)

    def train_transform(self) -> Callable[[Any], Tensor]:
        """Return the function from a training image to a tensor; override it for another augmentation."""
        from torchvision import transforms

        steps = transforms.RandomResizedCrop(self.image_size), transforms.RandomHorizontalFlip()
        return self._to_tensor(*steps)

    def eval_transform(self) -> Callable[[Any], Tensor]:
        """Return the function from a validation or test image to a tensor."""
        from torchvision import transforms

        return self._to_tensor(transforms.Resize(self.resize), transforms.CenterCrop(self.image_size))

    def train_dataloader(self) -> ImageFileLoader:
        """Return shuffled training batches, whose position is saved in checkpoints."""
        if self._overfits():
            return self._loader("overfit", self.batch_size, drop_last=self.drop_last)
        return self._loader("train", self.batch_size, shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> ImageFileLoader:
        """Return validation batches in a fixed order."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> ImageFileLoader:
        """Return test batches in a fixed order."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> ImageFileLoader:
        """Return the test batches, labels included."""
        return self.test_dataloader()

    def plain_dataloader(self, split: str = "train") -> ImageFileLoader | list[Batch]:
        """Return batches of a split for measurements: in a fixed order, passed through the validation pipeline.

        In a distributed run each process gets its own share, and no image comes twice.

        Args:
            split: "train", "val" or "test".

        Raises:
            ValueError: If there is no such split.
            RuntimeError: If `setup` wasn't called.
        """
        self._loader_options(loaded=bool(self._files))
        names = {"train": "overfit", "val": "val", "test": "test"}
        if not self._rank_has_images(split, {known: len(self._files[name]) for known, name in names.items()}):
            return []
        return self._loader(names[split], self.eval_batch_size, even=False)

    def _to_tensor(self, *steps: Callable[[Any], Any]) -> Callable[[Any], Tensor]:
        from torchvision import transforms

        last = transforms.ToTensor(), transforms.Normalize(list(self.mean), list(self.std))
        composed: Callable[[Any], Tensor] = transforms.Compose([*steps, *last])
        return composed

    def _classes(self, folder: Path) -> list[str]:
        return class_folders(folder)

    def _loader(
        self, name: str, batch_size: int, *, shuffle: bool = False, even: bool = True, drop_last: bool = False
    ) -> ImageFileLoader:
        options = self._loader_options(loaded=name in self._files)
        return ImageFileLoader(
            self._files[name],
            batch_size,
            num_workers=self.num_workers,
            pin_memory=self._on_gpu(),
            shuffle=shuffle,
            even=even,
            drop_last=drop_last,
            **options,
        )

    def _on_gpu(self) -> bool:
        return self.trainer is not None and torch.device(self.trainer.strategy.root_device).type == "cuda"


class ImageNetDataModule(ImageFolderDataModule):
    """ImageNet (ILSVRC 2012): 1,281,167 training and 50,000 validation images of 1,000 classes.

    It can't be downloaded without an account: unpack the archives of image-net.org into ``train`` and ``val``, the
    validation images sorted into class folders too. Options and pipeline are those of `ImageFolderDataModule`, which
    also serves for subsets of ImageNet.
    """

    num_classes: int = 1000

    def _classes(self, folder: Path) -> list[str]:
        classes = super()._classes(folder)
        if len(classes) != self.num_classes:
            raise InvalidValueError(
                expected=f"the {self.num_classes} class folders of ImageNet in {folder}",
                got=len(classes),
                cure="unpack all of the training archives; for a subset use ImageFolderDataModule",
            )
        return classes


def _check_workers_and_sizes(num_workers: int, image_size: int, resize: int) -> None:
    if not all(map(is_integer, (num_workers, image_size, resize))) or num_workers < 0:
        raise InvalidValueError(
            expected="integers, num_workers >= 0",
            got=f"num_workers={num_workers!r}, image_size={image_size!r}, resize={resize!r}",
            cure="give as many workers as there are cores to spare",
        )
    if not 1 <= image_size <= resize:
        raise InvalidValueError(
            expected="1 <= image_size <= resize, in pixels",
            got=f"{image_size} and {resize}",
            cure="224 and 256, for instance",
        )
