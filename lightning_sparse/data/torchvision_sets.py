"""What the data sets that torchvision downloads have in common: reading them, and saying what is wrong with them."""

from __future__ import annotations

import http.client
import tarfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_sparse.data.arrays import ImageArrays, image_arrays, read_npz
from lightning_sparse.data.datamodule import InMemoryDataModule
from lightning_sparse.data.locking import exclusive
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError, MissingFileError

# What torchvision raises for missing and damaged files, and what comes out of a broken connection or a full disk.
_FAILURES = (
    *(RuntimeError, OSError, EOFError, ValueError, TypeError, AssertionError, IndexError, KeyError),
    *(tarfile.TarError, zlib.error, http.client.HTTPException),
)


class TorchvisionDataModule(InMemoryDataModule):
    """A data set of torchvision's that fits in memory. A subclass names it and says what its images are.

    Args:
        data_dir: Directory in which torchvision keeps the data set's own folder. Or an ``.npz`` file with the same
            images, as `NpzDataModule` reads it; nothing is downloaded then.
        download: Whether to fetch the files if they are not there.
        **options: Those of `InMemoryDataModule`.

    Attributes:
        dataset: Name of the class in ``torchvision.datasets``.
        image_shape: Of the stored images: ``(height, width)``, which may also be stored with one channel, or
            ``(height, width, channels)``.
        num_classes: Number of classes.
        customary_mean: What the pixels are normalized with unless ``mean`` is given, per channel, white = 1.
        customary_std: Likewise.

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
        """Downloads what is missing, in one process per machine, if that is wanted.

        A second run that wants the same files waits for the first, and downloads nothing then.

        Raises:
            RuntimeError: If the download fails.
            ValueError: If files are there, but damaged.
        """
        if self.download and not self._is_npz():
            with exclusive(self._root() / f".{self.dataset}.lock"):
                self._read(train=True, download=True)
                self._read(train=False, download=True)

    def _load(self) -> ImageArrays:
        x_train, y_train, x_test, y_test = self._found()
        arrays = image_arrays(x_train, y_train, x_test, y_test, self.num_classes)
        height, width, *channels = self.image_shape
        if arrays.x_train.shape[1:] != (*(channels or [1]), height, width):
            raise InvalidValueError(
                expected=f"the images of {self.dataset}, of shape {self.image_shape}",
                got=f"{tuple(x_train.shape[1:])} in {self.data_dir}",
                cure="give the right file, or use NpzDataModule for images of another kind",
            )
        return arrays._replace(mean=self.customary_mean, std=self.customary_std)

    def _found(self) -> tuple[Any, Any, Any, Any]:
        if self._is_npz():
            return read_npz(self._root())
        return *self._read(train=True, download=False), *self._read(train=False, download=False)

    def _read(self, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        # Here, because torchvision takes a second to import and only this needs it.
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
        """What is wrong with the files, now that torchvision could not read or fetch them."""
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
    """The folder in which torchvision keeps the files of a data set, and the files' checksums, where it knows them."""
    if hasattr(kind, "resources"):  # MNIST and its like; the checksums are those of the archives
        return root / kind.__name__ / "raw", {name.removesuffix(".gz"): None for name, _ in kind.resources}
    meta = kind.meta
    return root / kind.base_folder, {**dict(kind.train_list + kind.test_list), meta["filename"]: meta["md5"]}
