"""MNIST: 70,000 handwritten digits of 28 x 28 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_sparse.data.arrays import ImageArrays, image_arrays
from lightning_sparse.data.datamodule import InMemoryDataModule


class MNISTDataModule(InMemoryDataModule):
    """MNIST (LeCun et al., 1998): 60,000 training and 10,000 test images of shape ``(1, 28, 28)``.

    Pixels are normalized with the customary mean 0.1307 and standard deviation 0.3081.

    Args:
        data_dir: Directory in which torchvision keeps ``MNIST/raw``.
        download: Whether to fetch the files if they are not there.
        **options: Those of `InMemoryDataModule`.

    Raises:
        ValueError: If an option is outside its range.
    """

    def __init__(self, data_dir: str | Path, *, download: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.data_dir, self.download = data_dir, download

    def prepare_data(self) -> None:
        """Downloads what is missing, in one process per machine, if that is wanted."""
        if self.download:
            _read(self.data_dir, train=True, download=True)
            _read(self.data_dir, train=False, download=True)

    def _load(self) -> ImageArrays:
        train = _read(self.data_dir, train=True, download=False)
        test = _read(self.data_dir, train=False, download=False)
        return image_arrays(*train, *test, num_classes=10)._replace(mean=(0.1307,), std=(0.3081,))


def _read(data_dir: str | Path, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    # Here, because torchvision takes a second to import and only this needs it.
    from torchvision.datasets import MNIST

    try:
        dataset = MNIST(data_dir, train=train, download=download)
    except RuntimeError as error:
        if download:
            raise
        raise FileNotFoundError(
            f"Expected the files of MNIST in {Path(data_dir) / 'MNIST' / 'raw'}; got none or only some. "
            "Cure: set download=True, or put them there."
        ) from error
    return dataset.data, dataset.targets
