"""Image data sets as LightningDataModules, their augmentation, and loaders that resume in the middle of an epoch."""

from lightning_sparse.data.array_datamodules import ArrayDataModule, NpzDataModule
from lightning_sparse.data.arrays import ImageArrays, image_arrays
from lightning_sparse.data.augment import PadCropFlip, pad_crop_flip
from lightning_sparse.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from lightning_sparse.data.datamodule import InMemoryDataModule
from lightning_sparse.data.digits import DigitsDataModule
from lightning_sparse.data.image_files import ImageFileLoader, ImageFiles
from lightning_sparse.data.image_folder import ImageFolderDataModule, ImageNetDataModule
from lightning_sparse.data.in_memory_loader import InMemoryLoader
from lightning_sparse.data.mnist import FashionMNISTDataModule, MNISTDataModule
from lightning_sparse.data.normalize import Batch, Normalize

__all__ = [
    "ArrayDataModule",
    "Batch",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "ImageArrays",
    "ImageFileLoader",
    "ImageFiles",
    "ImageFolderDataModule",
    "ImageNetDataModule",
    "InMemoryDataModule",
    "InMemoryLoader",
    "MNISTDataModule",
    "Normalize",
    "NpzDataModule",
    "PadCropFlip",
    "image_arrays",
    "pad_crop_flip",
]
