"""The internal form of image data sets in memory, and the checks of arrays on their way to it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.numbers import check_integer
from lightning_sparse.validation.representation import short_text

# Resizing with sharp filters leaves pixels a little below black or above white, unlike bytes or normalized pixels.
_SLACK = 0.5
# Pixels from 0 to 1 can't have a larger standard deviation.
_LARGEST_STD = 0.5


class ImageArrays(NamedTuple):
    """A data set in memory: images ``(images, channels, height, width)`` and int64 labels ``(images,)``.

    Attributes:
        x_train: Training images, uint8 or float32. Validation images are split off them.
        y_train: Training labels, 0 <= label < num_classes.
        x_test: Test images, of the same dtype and shape as the training images.
        y_test: Test labels.
        num_classes: Number of classes.
        white: Stored value of a white pixel, > 0.
        mean: Customary mean of the data set per channel, in units of ``white``; None: unknown.
        std: Customary standard deviation of the data set per channel, same units; None: unknown.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    white: float = 255.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={short_text(value)}" for name, value in self._asdict().items())
        return f"{type(self).__name__}({shown})"


def image_arrays(x_train: Any, y_train: Any, x_test: Any, y_test: Any, num_classes: int | None = None) -> ImageArrays:
    """Check four arrays and convert them to `ImageArrays`.

    Args:
        x_train: Training images, array or tensor ``(images, height, width)`` or ``(images, height, width, channels)``:
            uint8, or floating point with white = 1.
        y_train: Training labels, integers ``(images,)``.
        x_test: Test images, in the form of ``x_train``.
        y_test: Test labels, in the form of ``y_train``.
        num_classes: Number of classes, >= 1. None: the largest training label plus one.

    Raises:
        TypeError: If images are neither uint8 nor floating point, or labels are not integers.
        ValueError: If shapes or lengths do not fit together, or labels are out of range.
    """
    check_num_classes(num_classes)
    train, test = _images(x_train, "x_train"), _images(x_test, "x_test")
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise InvalidValueError(
            expected="training and test images of the same shape and dtype",
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
    """Raise a ValueError unless a number of classes is an integer >= 1, or None."""
    if num_classes is not None:
        check_integer(num_classes, 1, expected="num_classes >= 1, an integer", cure="None counts them")


def check_pixels(arrays: ImageArrays, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise if a mean and a standard deviation are those of pixels from 0 to 1, but floating-point pixels are not.

    Other statistics are accepted with any pixels: they are the user's own, in the user's own units.

    Args:
        arrays: The images.
        mean: Mean to subtract from the pixels, per channel, in units of ``arrays.white``.
        std: Standard deviation to divide the pixels by, per channel, same units.

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
                    f"floating-point pixels from 0 to 1 in {name}, like those of mean={tuple(mean)} and "
                    f"std={tuple(std)}"
                ),
                got=f"{low:.4g} to {high:.4g}",
                cure=(
                    "divide them by 255, or save them as uint8; if they are normalized already, give "
                    "mean=[0.0] and std=[1.0]"
                ),
            )


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
    return _without_shared_memory(channels_first.to(stored).contiguous(), array)


def _shape_cure(images: Tensor) -> str:
    if 0 in images.shape:
        return "check the file they were read from"
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


def _without_shared_memory(result: Tensor, source: Any) -> Tensor:
    """Return a tensor that shares no memory with the array it was made from, which the user may change."""
    shared = isinstance(source, Tensor) and result.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
    return result.clone() if shared else result


def _tensor(array: Any, name: str) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach()
    try:
        # A copy, as NumPy's array may be read-only, or change later.
        return torch.tensor(np.asarray(array))
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            expected=f"{name} to be an array of numbers",
            got=f"{type(array).__name__} ({error})",
            cure="convert it with numpy.asarray(..., dtype='uint8')",
        ) from error


def _looks_channels_first(images: Tensor) -> bool:
    # As channels last, (images, 3, 32, 32) would be images of 3 x 32 with 32 channels, and training meaningless.
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
    return _without_shared_memory(labels.long(), array)


def _check_range(labels: Tensor, name: str, num_classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise InvalidValueError(
            expected=f"labels from 0 to {num_classes - 1} in {name}",
            got=f"{low} to {high}",
            cure="number the classes from 0, or give the right num_classes",
        )
