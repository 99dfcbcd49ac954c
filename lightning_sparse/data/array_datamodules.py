"""Data modules for the user's own arrays, in memory or in an ``.npz`` file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_sparse.data.arrays import ImageArrays, check_num_classes, image_arrays
from lightning_sparse.data.datamodule import InMemoryDataModule
from lightning_sparse.data.npz import read_npz


class ArrayDataModule(InMemoryDataModule):
    """Images and labels that are already in memory, as NumPy arrays or tensors.

    Args:
        x_train: ``(images, height, width)`` or ``(images, height, width, channels)``: uint8, or floating
            point in which white is 1. They are copied.
        y_train: Integers ``(images,)``, 0 <= label < num_classes.
        x_test: Test images, in the form of ``x_train``.
        y_test: Test labels, in the form of ``y_train``.
        num_classes: Number of classes, >= 1. None: the largest training label plus one.
        **options: Options of `InMemoryDataModule`.

    Raises:
        TypeError: If an array has the wrong dtype.
        ValueError: If shapes, lengths, labels or options are not as described. At setup: if floating-point pixels are
            far from the range of 0 to 1, but ``mean`` and ``std`` are in it.
    """

    def __init__(
        self,
        x_train: Any,
        y_train: Any,
        x_test: Any,
        y_test: Any,
        *,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._arrays = image_arrays(x_train, y_train, x_test, y_test, num_classes)
        self.num_classes = self._arrays.num_classes

    @classmethod
    def from_npz(cls, path: str | Path, **options: Any) -> ArrayDataModule:
        """Read the arrays from a file, at once. `NpzDataModule` reads it at setup, and suits YAML.

        Args:
            path: An ``.npz`` file with ``x_train``, ``y_train``, ``x_test``, ``y_test``, as Keras' ``mnist.npz``.
            **options: Options of the class.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, or its content is not as described.
            TypeError: If an array has the wrong dtype.
        """
        return cls(*read_npz(path), **options)

    def _load(self) -> ImageArrays:
        return self._arrays


class NpzDataModule(InMemoryDataModule):
    """Images and labels from an ``.npz`` file, read at setup.

    Args:
        path: A file with the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``, as Keras'
            ``mnist.npz``, in the form of `ArrayDataModule`'s.
        num_classes: Number of classes, >= 1. None: the largest training label plus one.
        **options: Options of `InMemoryDataModule`.

    Raises:
        ValueError: If an option is outside its range. Errors in the file are raised at setup.
    """

    def __init__(self, path: str | Path, *, num_classes: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        check_num_classes(num_classes)
        self.path, self.num_classes = path, num_classes
        self._num_classes_option = num_classes

    def _load(self) -> ImageArrays:
        x_train, y_train, x_test, y_test = read_npz(self.path)
        return image_arrays(x_train, y_train, x_test, y_test, self._num_classes_option)
