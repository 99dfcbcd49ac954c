"""MNIST and Fashion-MNIST: 70,000 grey images of 28 x 28 pixels each."""

from __future__ import annotations

from lightning_sparse.data.torchvision_sets import TorchvisionDataModule


class MNISTDataModule(TorchvisionDataModule):
    """MNIST (LeCun et al., 1998): handwritten digits, 60,000 training and 10,000 test images of shape ``(1, 28, 28)``.

    Pixels are normalized with the customary mean 0.1307 and standard deviation 0.3081, those of the training images.

    Args:
        data_dir: Directory in which torchvision keeps ``MNIST/raw``, or an ``.npz`` file such as Keras' ``mnist.npz``.
        download: Whether to download missing files.
        **options: Options of `InMemoryDataModule`.

    Raises:
        ValueError: If an option is outside its range.
    """

    dataset = "MNIST"
    image_shape = (28, 28)
    num_classes = 10
    customary_mean = (0.1307,)
    customary_std = (0.3081,)


class FashionMNISTDataModule(TorchvisionDataModule):
    """Fashion-MNIST (Xiao et al., 2017): 10 kinds of clothes, in MNIST's numbers and shape.

    Pixels are normalized with the customary mean 0.2860 and standard deviation 0.3530, said to be those of the training
    images; ``mean`` and ``std`` are options.

    Args:
        data_dir: Directory in which torchvision keeps ``FashionMNIST/raw``, or an ``.npz`` file, as `NpzDataModule`'s.
        download: Whether to download missing files.
        **options: Options of `InMemoryDataModule`.

    Raises:
        ValueError: If an option is outside its range.
    """

    dataset = "FashionMNIST"
    image_shape = (28, 28)
    num_classes = 10
    customary_mean = (0.2860,)
    customary_std = (0.3530,)
