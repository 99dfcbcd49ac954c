"""Checks of layer widths, counts and image shapes that all networks share, and layer sizes scaled by a width."""

from __future__ import annotations

import math

from torch import Tensor, fx

from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import check_integer, is_real


def check_width(width: object) -> None:
    """Raise unless a width is a finite number > 0.

    Raises:
        ValueError: If it isn't.
    """
    if not is_real(width) or not 0 < width < math.inf:
        raise InvalidValueError(
            expected="a finite width > 0",
            got=repr(width),
            cure="1.0 is the published network; 0.5 halves its layers",
        )


def scaled(units: int, width: float) -> int:
    """Return the units of a layer at a width, rounded to the nearest integer (halves to the even one).

    >>> scaled(300, 1.0), scaled(300, 0.5), scaled(50, 0.33)
    (300, 150, 16)

    Args:
        units: Units or channels of the published layer, >= 1.
        width: Factor > 0.

    Raises:
        ValueError: If the width is no number > 0, or rounding leaves the layer no unit.
    """
    check_width(width)
    if (rounded := round(units * float(width))) < 1:
        raise InvalidValueError(
            expected="a width that leaves every layer at least one unit",
            got=f"{width!r}, which leaves a layer of {units} units none",
            cure=f"a width above {0.5 / units:.3g}",
        )
    return rounded


def check_count(name: str, count: object, minimum: int = 1) -> None:
    """Raise unless a number of features, channels, classes or layers is an integer of at least `minimum`.

    Raises:
        ValueError: If it isn't.
    """
    check_integer(count, minimum, expected=f"{name} as an integer >= {minimum}", cure="give their number")


def check_images(images: Tensor, channels: int, size: int | None = None) -> None:
    """Raise unless images have the shape ``(batch, channels, height, width)``, with height and width `size` if given.

    Raises:
        ValueError: If they aren't.
    """
    _expect_images(images, channels, size)


# Called as it is while torch.fx traces a network, as symbols in place of images have no shape to decide by.
@fx.wrap
def _expect_images(images: Tensor, channels: int, size: int | None) -> None:
    if images.dim() != 4 or images.shape[1] != channels or (size and images.shape[2:] != (size, size)):
        sides = f"{size}, {size}" if size else "height, width"
        resize = f"resize them to {size} x {size}, " if size else ""
        raise InvalidValueError(
            expected=f"images (batch, {channels}, {sides})",
            got=tuple(images.shape),
            cure=f"{resize}set in_channels, or use another model",
        )


def flattened(images: Tensor, expected: int) -> Tensor:
    """Return images ``(batch, *any)`` as ``(batch, expected)``.

    Raises:
        ValueError: If an image has another number of values.
    """
    features = images.flatten(1)
    _expect_features(features, expected)
    return features


@fx.wrap
def _expect_features(features: Tensor, expected: int) -> None:
    if features.shape[1] != expected:
        raise InvalidValueError(
            expected=f"{expected} features per image",
            got=f"{features.shape[1]}",
            cure="in_features = channels * height * width",
        )
