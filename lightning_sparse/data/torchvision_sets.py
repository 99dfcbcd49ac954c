"""Base of the data sets that torchvision downloads: reading them, and diagnosing missing or damaged files."""

from __future__ import annotations

import http.client
import tarfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_sparse.data.arrays import ImageArrays, image_arrays
from lightning_sparse.data.datamodule import InMemoryDataModule
from lightning_sparse.data.locking import exclusive
from lightning_sparse.data.npz import read_npz
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError, MissingFileError

# Errors of torchvision for missing and damaged files, of broken connections and of full disks.
_FAILURES = (
    *(RuntimeError, OSError, EOFError, ValueError, TypeError, AssertionError, IndexError, KeyError),
    *(tarfile.TarError, zlib.error, http.client.HTTPException),
)


class TorchvisionDataModule(InMemoryDataModule):
    """Data module of a torchvision data set that fits in memory. A subclass sets the attributes below.

    Args:
        data_dir: Directory in which torchvision keeps the data set's own folder. Or an ``.npz`` file with the same
            images, as `NpzDataModule` reads it; nothing is downloaded then.
        download: Whether to download missing files.
        **options: Options of `InMemoryDataModule`.

    Attributes:
        dataset: Name of the class in ``torchvision.datasets``.
        image_shape: Shape of the stored images: ``(height, width)``, also for images stored with one channel, or
            ``(height, width, channels)``.
        num_classes: Number of classes.
        customary_mean: Default of ``mean``, per channel, white = 1.
        customary_std: Default of ``std``, per channel, same units.

    Raises:
        ValueError: If an option is outside its range.
    """

    dataset: ClassVar[str]
    image_shape: ClassVar[tuple[int, ...]]
    num_classes: int
    customary_mean: ClassVar[tuple[float, ...]]
    customary_std: ClassVar[tuple[float, ...]]

    def __init__(self, data_dir: str | Path, *, download: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.data_dir, self.download = data_dir, download

    def prepare_data(self) -> None:
        """Download missing files, in one process per machine, unless ``download`` is False.

        A second run of the same data set waits for the first, and then finds the files.

        Raises:
            RuntimeError: If the download fails.
            ValueError: If files are damaged.
        """
        if self.download and not self._is_npz():
            with exclusive(self._root() / f".{self.dataset}.lock"):
                self._read(train=True, download=True)
                self._read(train=False, download=True)

    def _load(self) -> ImageArrays:
        x_train, y_train, x_test, y_test = self._read_arrays()
        arrays = image_arrays(x_train, y_train, x_test, y_test, self.num_classes)
        height, width, *channels = self.image_shape
        if arrays.x_train.shape[1:] != (*(channels or [1]), height, width):
            raise InvalidValueError(
                expected=f"the images of {self.dataset}, of shape {self.image_shape}",
                got=f"{tuple(x_train.shape[1:])} in {self.data_dir}",
                cure="give the right file, or use NpzDataModule for images of another kind",
            )
        return arrays._replace(mean=self.customary_mean, std=self.customary_std)

    def _read_arrays(self) -> tuple[Any, Any, Any, Any]:
        if self._is_npz():
            return read_npz(self._root())
        return *self._read(train=True, download=False), *self._read(train=False, download=False)

    def _read(self, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        # Imported here, because torchvision takes a second and only this needs it.
        from torchvision import datasets

        kind = getattr(datasets, self.dataset)
        try:
            dataset = kind(self._root(), train=train, download=download)
            images, labels = torch.as_tensor(dataset.data), torch.as_tensor(dataset.targets)
            if len(images) != len(labels):
                raise ValueError(f"{len(images)} images, {len(labels)} labels")
        except _FAILURES as error:
            raise self._diagnosis(kind, error, download) from error
        return images, labels

    def _diagnosis(self, kind: Any, error: Exception, download: bool) -> Exception:
        """Return the error for files that torchvision could not read or download, with the cause."""
        from torchvision.datasets.utils import check_integrity

        folder, checksums = _files(kind, self._root())
        missing = [name for name in checksums if not (folder / name).is_file()]
        damaged = [name for name, md5 in checksums.items() if not check_integrity(folder / name, md5)]
        if damaged and download:  # missing files among them
            return InvalidStateError(
                expected=f"to download {self.dataset} to {self._root()}",
                got=f"{type(error).__name__}: {error}",
                cure=(
                    "check the network connection, and that the directory can be written to; or put "
                    f"{', '.join(damaged)} into {folder} by other means"
                ),
            )
        if missing:
            return MissingFileError(
                expected=f"the files of {self.dataset} in {folder}",
                got=f"no {', '.join(missing)}",
                cure="set download=True, or put them there",
            )
        return InvalidValueError(
            expected=f"intact files of {self.dataset} in {folder}",
            got=f"a wrong checksum of {', '.join(damaged)}" if damaged else f"{type(error).__name__}: {error}",
            cure="delete this folder, and set download=True to fetch it again",
        )

    def _root(self) -> Path:
        return Path(self.data_dir).expanduser()

    def _is_npz(self) -> bool:
        return self._root().suffix == ".npz"


def _files(kind: Any, root: Path) -> tuple[Path, dict[str, str | None]]:
    """Return the folder in which torchvision keeps a data set, and the checksums of its files, None if unknown."""
    if hasattr(kind, "resources"):  # like MNIST, whose checksums are of the archives
        return root / kind.__name__ / "raw", {name.removesuffix(".gz"): None for name, _ in kind.resources}
    meta = kind.meta
    return root / kind.base_folder, {**dict(kind.train_list + kind.test_list), meta["filename"]: meta["md5"]}
