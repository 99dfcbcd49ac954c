"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32 x 32 pixels each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_sparse.data.torchvision_sets import TorchvisionDataModule


class CIFAR10DataModule(TorchvisionDataModule):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 training and 10,000 test images of shape ``(3, 32, 32)``, 10 classes.

    Training images are augmented as in Dettmers & Zettlemoyer (2019), section 4: reflectively padded by 4 pixels,
    cropped at random, half of them flipped. Validation and test images never are.

    Pixels are normalized with the customary mean (0.4914, 0.4822, 0.4465) of the training pixels, and
    standard deviation (0.2023, 0.1994, 0.2010), the average over the training images of one image's;
    the standard deviation of all training pixels would be (0.2470, 0.2435, 0.2616).

    Args:
        data_dir: Directory in which torchvision keeps ``cifar-10-batches-py``; or an ``.npz`` file with the same
            images, as `NpzDataModule` reads it: ``(images, 32, 32, 3)``, in the file's order.
        download: Whether to download missing files.
        batch_size: Training images per step and process, >= 1.
        crop_padding: Pixels of reflective padding on each side before cropping, from 0 (no crops) to 31.
        flip: Whether a random half of the training images is flipped.
        **options: Options of `InMemoryDataModule`.

    Raises:
        ValueError: If an option is outside its range.
    """

    dataset = "CIFAR10"
    image_shape = (32, 32, 3)
    num_classes = 10
    customary_mean = (0.4914, 0.4822, 0.4465)
    customary_std = (0.2023, 0.1994, 0.2010)

    def __init__(
        self,
        data_dir: str | Path,
        *,
        download: bool = True,
        batch_size: int = 128,
        crop_padding: int = 4,
        flip: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            data_dir, download=download, batch_size=batch_size, crop_padding=crop_padding, flip=flip, **options
        )


class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100 (Krizhevsky, 2009): as `CIFAR10DataModule`, with 100 (fine) classes.

    Pixels are normalized with the customary mean (0.5071, 0.4865, 0.4409) and standard deviation (0.2673, 0.2564,
    0.2762), said to be those of all training pixels, unlike CIFAR-10's.

    Args:
        data_dir: Directory in which torchvision keeps ``cifar-100-python``; or an ``.npz`` file with the same images.
        download: Whether to download missing files.
        batch_size: Training images per step and process, >= 1.
        crop_padding: Pixels of reflective padding on each side before cropping, from 0 (no crops) to 31.
        flip: Whether a random half of the training images is flipped.
        **options: Options of `InMemoryDataModule`.

    Raises:
        ValueError: If an option is outside its range.
    """

    dataset = "CIFAR100"
    num_classes = 100
    customary_mean = (0.5071, 0.4865, 0.4409)
    customary_std = (0.2673, 0.2564, 0.2762)
