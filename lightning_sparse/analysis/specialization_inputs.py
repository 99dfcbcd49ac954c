"""Checks of features, labels and options of class specialization."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.numbers import check_integer, is_real

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_specialization_options(num_classes: int | None, drop_fraction: float) -> None:
    """Raise a ValueError unless the options of a `ClassSpecialization` are in range; None: unknown yet."""
    if num_classes is not None:
        check_integer(num_classes, 2, expected="num_classes >= 2, an integer", cure="give the number of classes")
    if not is_real(drop_fraction, 0) or drop_fraction >= 1:
        raise InvalidValueError(
            expected="0 <= drop_fraction < 1",
            got=repr(drop_fraction),
            cure="0 drops no channel, 0.05 is in the authors' code",
        )


def check_batch(features: Tensor, labels: Tensor) -> None:
    """Raise unless features are ``(batch, channels, *spatial)`` and labels ``(batch,)``; never waits for the device.

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If shapes or devices don't fit together.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        raise InvalidTypeError(
            expected="a tensor of floating-point features",
            got=_kind(features),
            cure="features.float()",
        )
    check_labels(labels)
    if features.ndim < 2 or not features.shape[1]:
        raise InvalidValueError(
            expected="features of shape (batch, channels, *spatial)",
            got=tuple(features.shape),
            cure="put images first and channels second",
        )
    if labels.shape != features.shape[:1]:
        raise InvalidValueError(
            expected=f"one label per image, shape ({len(features)},)",
            got=tuple(labels.shape),
            cure="give class indices, and features and labels of the same batch",
        )
    if labels.device != features.device:
        raise InvalidValueError(
            expected="features and labels on one device",
            got=f"{features.device} and {labels.device}",
            cure="labels.to(features.device)",
        )


def check_labels(labels: object) -> None:
    """Raise a TypeError unless labels are a tensor of integers."""
    if not isinstance(labels, Tensor) or labels.dtype not in _INTEGERS:
        raise InvalidTypeError(
            expected="a tensor of integer labels",
            got=_kind(labels),
            cure="class indices, labels.long()",
        )


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
