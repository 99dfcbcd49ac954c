"""Image data sets as arrays: their one internal form, and what is refused on the way there."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from math import isqrt
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError, MissingFileError

Array = np.ndarray[Any, Any]

# What NumPy and zipfile raise on a damaged file.
_UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, MemoryError, AttributeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)

# Resizing with sharp filters leaves pixels a little below black or above white; bytes and normalized ones are beyond.
_SLACK = 0.5
# No pixels from 0 to 1 can have a larger standard deviation.
_LARGEST_STD = 0.5

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
"""The arrays of an ``.npz`` file, as in Keras' ``mnist.npz``."""


class ImageArrays(NamedTuple):
    """A data set in memory: images ``(images, channels, height, width)`` and int64 labels ``(images,)``.

    Attributes:
        x_train: Training images, uint8 or float32. Validation images are taken from these.
        y_train: Their labels, 0 <= label < num_classes.
        x_test: Test images, of the same dtype and shape as the training images.
        y_test: Their labels.
        num_classes: Number of classes.
        white: The stored value of a white pixel, > 0.
        mean: The data set's customary mean per channel, in units of ``white``; None: not known.
        std: The data set's customary standard deviation per channel; None: not known.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    white: float = 255.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def image_arrays(x_train: Any, y_train: Any, x_test: Any, y_test: Any, num_classes: int | None = None) -> ImageArrays:
    """Checks four arrays and brings them into the form of `ImageArrays`.

    Args:
        x_train: Array or tensor ``(images, height, width)`` or ``(images, height, width, channels)``: uint8,
            or floating point with white = 1.
        y_train: Integers ``(images,)``.
        x_test: As ``x_train``.
        y_test: As ``y_train``.
        num_classes: Number of classes, >= 1. None: the largest training label plus one.

    Raises:
        TypeError: If images are neither uint8 nor floating point, or labels are not integers.
        ValueError: If shapes or lengths do not fit together, or labels are out of range.
    """
    check_num_classes(num_classes)
    train, test = _images(x_train, "x_train"), _images(x_test, "x_test")
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise InvalidValueError(
            expected="training and test images alike",
            got=(
                f"{tuple(train.shape[1:])} {train.dtype} in x_train and {tuple(test.shape[1:])} {test.dtype} "
                "in x_test (channels first)"
            ),
            cure="convert them the same way",
        )
    train_labels = _labels(y_train, "y_train", len(train))
    test_labels = _labels(y_test, "y_test", len(test))
    classes = int(train_labels.max()) + 1 if num_classes is None else num_classes
    _check_range(train_labels, "y_train", classes)
    _check_range(test_labels, "y_test", classes)
    white = 255.0 if train.dtype == torch.uint8 else 1.0
    return ImageArrays(train, train_labels, test, test_labels, classes, white)


def check_num_classes(num_classes: int | None) -> None:
    """Raise a ValueError unless it is an integer >= 1, or None."""
    if num_classes is not None and (not isinstance(num_classes, Integral) or num_classes < 1):
        raise InvalidValueError(
            expected="num_classes >= 1, an integer",
            got=repr(num_classes),
            cure="None counts them",
        )


def check_pixels(arrays: ImageArrays, mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse floating-point pixels that a mean and a standard deviation of pixels from 0 to 1 don't belong to.

    Statistics of any other pixels are let through with any pixels: they are the user's own, in units of the user's own.

    Args:
        arrays: The images.
        mean: What will be subtracted from their pixels, per channel, in units of ``arrays.white``.
        std: What the pixels will be divided by then.

    Raises:
        ValueError: If pixels are well below 0 or well above 1, in units of ``arrays.white``.
    """
    if not all(0 <= value <= 1 for value in mean) or max(std) > _LARGEST_STD:
        return
    for name, images in (("x_train", arrays.x_train), ("x_test", arrays.x_test)):
        if not images.is_floating_point():
            continue
        low, high = (value.item() / arrays.white for value in images.aminmax())
        if low < -_SLACK or high > 1 + _SLACK:
            raise InvalidValueError(
                expected=(
                    f"floating-point pixels from 0 to 1 in {name}, as mean={tuple(mean)} and std={tuple(std)} "
                    "are of such"
                ),
                got=f"{low:.4g} to {high:.4g}",
                cure=(
                    "divide them by 255, or save them as uint8; if they are normalized already, give "
                    "mean=[0.0] and std=[1.0]"
                ),
            )


def read_npz(path: str | Path) -> tuple[Array, Array, Array, Array]:
    """Reads the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``. Nothing in the file is executed.

    Args:
        path: An ``.npz`` file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no ``.npz`` file, or lacks one of the arrays.
    """
    if not isinstance(path, (str, PathLike)):
        raise InvalidTypeError(
            expected="the path of an .npz file",
            got=repr(path),
            cure="check the path",
        )
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingFileError(
            expected="an .npz file",
            got=f"{path}, which does not exist",
            cure="check the path",
        )
    try:
        # Opened here, because np.load leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            # Before anything is read: an array is read up to the length in its header, where checksums end it.
            if damaged := file.zip.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
            missing = [key for key in NPZ_KEYS if key not in file]
            arrays = {key: file[key] for key in NPZ_KEYS if key in file}
    except _UNREADABLE as error:
        raise InvalidValueError(
            expected="an intact .npz file of numbers",
            got=f"{path}, which cannot be read ({error})",
            cure="write it again with numpy.savez",
        ) from error
    if missing:
        raise InvalidValueError(
            expected=f"the arrays {', '.join(NPZ_KEYS)}",
            got=f"{path} without {', '.join(missing)}",
            cure="write all four with numpy.savez(path, x_train=..., ...)",
        )
    return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]


def _images(array: Any, name: str) -> Tensor:
    images = _tensor(array, name)
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InvalidTypeError(
            expected=f"{name} to be uint8 (0 to 255) or floating point (0 to 1)",
            got=images.dtype,
            cure="convert it with astype('uint8')",
        )
    if images.ndim not in (3, 4) or 0 in images.shape or _looks_channels_first(images):
        raise InvalidValueError(
            expected=f"{name} of shape (images, height, width) or (images, height, width, channels), not empty",
            got=tuple(images.shape),
            cure=_shape_cure(images),
        )
    channels_first = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    if images.is_floating_point() and images.numel() and not torch.isfinite(images).all():
        raise InvalidValueError(
            expected=f"finite pixels in {name}",
            got="NaN or infinity",
            cure="clean the images up",
        )
    stored = torch.uint8 if images.dtype == torch.uint8 else torch.float32
    return _own(channels_first.to(stored).contiguous(), array)


def _shape_cure(images: Tensor) -> str:
    if 0 in images.shape:
        return "check what they were read from"
    if images.ndim == 2:
        pixels = images.shape[1]
        if (side := isqrt(pixels)) ** 2 == pixels:
            return f"use reshape(-1, {side}, {side})"
        if (side := isqrt(pixels // 3)) ** 2 * 3 == pixels:
            return f"use reshape(-1, 3, {side}, {side}).transpose(0, 2, 3, 1), if rows have all red pixels first"
        return "use reshape(-1, height, width)"
    if images.ndim == 4:
        return "move the channels to the end, with transpose(0, 2, 3, 1) of an array or permute of a tensor"
    return "give each image a height and a width"


def _own(result: Tensor, given: Any) -> Tensor:
    """A tensor that shares no memory with what it was made from, which the user may change."""
    shared = isinstance(given, Tensor) and result.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()
    return result.clone() if shared else result


def _tensor(array: Any, name: str) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach()
    try:
        # A copy: NumPy's array may be read-only, and may be changed later.
        return torch.tensor(np.asarray(array))
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            expected=f"{name} to be an array of numbers",
            got=f"{type(array).__name__} ({error})",
            cure="convert it with numpy.asarray(..., dtype='uint8')",
        ) from error


def _looks_channels_first(images: Tensor) -> bool:
    # Read as channels last, (images, 3, 32, 32) would be a 3 x 32 image of 32 channels, and train to nonsense.
    return images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] > 4


def _labels(array: Any, name: str, count: int) -> Tensor:
    labels = _tensor(array, name)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InvalidTypeError(
            expected=f"{name} to be integers",
            got=labels.dtype,
            cure="convert it with astype('int64')",
        )
    if labels.shape != (count,):
        raise InvalidValueError(
            expected=f"{name} of shape ({count},), one label per image",
            got=tuple(labels.shape),
            cure="use reshape(-1) on labels in a column; otherwise check that images and labels belong together",
        )
    return _own(labels.long(), array)


def _check_range(labels: Tensor, name: str, num_classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise InvalidValueError(
            expected=f"labels from 0 to {num_classes - 1} in {name}",
            got=f"{low} to {high}",
            cure="number the classes from 0, or give the right num_classes",
        )
