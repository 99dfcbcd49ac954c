"""Images in one folder per class, and a loader that reads them in worker processes and resumes within an epoch."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_sparse.data.normalize import Batch
from lightning_sparse.data.resumable_loader import BatchPlan, ResumableLoader
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import ShowsOptions

# Errors that Pillow raises for unreadable files, such as those deleted since the folder was listed.
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error)
# Begins the name of a file or folder that systems and editors make beside the user's: `._1.png`, `.ipynb_checkpoints`.
_HIDDEN = f"{os.sep}."

SeededImage = tuple[int, int]
"""Number of an image in its data set, and the seed of its augmentation."""


class ImageFiles(ShowsOptions, Dataset[tuple[Tensor, int]]):
    """Data set of the images in a folder with one folder per class, listed like torchvision's ``ImageFolder``.

    Files and folders that begin with a dot are left out: notebooks, archives and file systems make them.

    Args:
        folder: Folder of class folders with images in formats that torchvision knows.
        classes: Names of the class folders; their positions are the labels. A class may have no images here.
        transform: Function from a ``PIL.Image`` in RGB to a tensor. It may draw from PyTorch's global generator, which
            is seeded for each image and restored after it.
    """

    def __init__(self, folder: Path, classes: list[str], transform: Callable[[Any], Tensor]) -> None:
        # Here, because torchvision takes a second to import and only this needs it.
        from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

        self.folder, self.classes, self.transform = folder, classes, transform
        labels = {name: label for label, name in enumerate(classes)}
        listed = make_dataset(folder, labels, extensions=IMG_EXTENSIONS, allow_empty=True)
        self.samples: list[tuple[str, int]] = [
            (path, label) for path, label in listed if _HIDDEN not in path[len(str(folder)) :]
        ]

    def transformed_by(self, transform: Callable[[Any], Tensor]) -> ImageFiles:
        """Return the same images with another transform, without listing the folder again."""
        other = copy(self)
        other.transform = transform
        return other

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: SeededImage) -> tuple[Tensor, int]:
        """Return the transformed image and its label, always the same for the same key.

        Raises:
            ValueError: If the file can't be read as an image.
        """
        number, seed = key
        path, label = self.samples[number]
        image = _read(path)
        with _seeded(seed):
            return self.transform(image), label


class ImageFileLoader(ResumableLoader):
    """Loader of ``(images, labels)`` batches from files, which worker processes read ahead.

    Every image's augmentation has its own seed, made from ``seed``, the epoch and its position: the number of workers
    makes no difference, and a run that Lightning resumes at any step sees the batches of the uninterrupted run.

    Args:
        files: Images to load.
        batch_size: Images per batch and process, >= 1.
        num_workers: Number of processes that read, >= 0; they persist between epochs. 0: this process reads.
        pin_memory: Whether batches come in page-locked memory, for faster copies to a GPU.
        **options: ``shuffle``, ``seed``, ``drop_last``, ``rank``, ``world_size`` and ``even`` of
            `ResumableLoader`.

    Raises:
        ValueError: If the options do not fit together.
    """

    def __init__(
        self, files: ImageFiles, batch_size: int, *, num_workers: int = 0, pin_memory: bool = False, **options: Any
    ) -> None:
        super().__init__(len(files), batch_size, **options)
        self.files = files
        self._planned_batches = _PlannedBatches()
        self._reader: DataLoader[tuple[Tensor, int]] = DataLoader(
            files,
            batch_sampler=self._planned_batches,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # otherwise each epoch would draw from the global one
        )

    def _fetch(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
        # A list, because the generator refers to this loader: with a reference cycle, stopping the workers would take
        # until a timeout of five seconds.
        self._planned_batches.plans = list(plans)
        for batch in self._reader:
            yield batch[0], batch[1]  # a tuple of the list

    @property
    def _iterator(self) -> Any:
        # At the end of a run, Lightning finds the workers to stop by this name.
        return self._reader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._reader._iterator = iterator


class _PlannedBatches:
    """Batch sampler of the planned batches of the next epoch, for a DataLoader that lasts for all epochs."""

    def __init__(self) -> None:
        self.plans: list[BatchPlan] = []

    def __iter__(self) -> Iterator[list[SeededImage]]:
        for images, seed in self.plans:
            seeds = torch.randint(2**62, images.shape, generator=torch.Generator().manual_seed(seed))
            yield list(zip(images.tolist(), seeds.tolist(), strict=True))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's global generator alone; torch.manual_seed would seed the devices as well."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


def _read(path: str) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, rgb = image.mode, _rgb(image)
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        raise InvalidValueError(
            expected="an intact image",
            got=f"{path}, which cannot be read ({error})",
            cure="replace the file, or delete it",
        ) from error
    if rgb is None:
        raise InvalidValueError(
            expected="an image whose white is known, of 8 or 16 bits a channel",
            got=f"{path}, of Pillow's mode {mode!r}",
            cure="save it with 8 bits a channel",
        )
    return rgb


def _rgb(image: Any) -> Any:
    """Convert an opened image to 8-bit RGB; None if its white is unknown."""
    from PIL import Image

    # Pillow would clip values at 255. Formats without a mode for 16 bits use one for 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    return None if image.mode in ("I", "F") else image.convert("RGB")
