"""One number of classes: that of the data, of the network's outputs, and of the metrics."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError


def check_data_classes(data: Any, num_classes: int) -> None:
    """Refuse a data module with more classes than a classifier knows, and warn of one with fewer.

    Args:
        data: A data module that has been set up; one without an integer ``num_classes``, or None, is let through.
        num_classes: Number of classes of the classifier.

    Raises:
        ValueError: If the data have more classes.
    """
    found = getattr(data, "num_classes", None)
    if not isinstance(found, int) or found == num_classes:
        return
    error = InvalidValueError(
        expected=f"data of num_classes={num_classes} classes",
        got=f"{found} of them from {type(data).__name__}",
        cure=f"give the classifier num_classes={found}, and its network as many outputs",
    )
    if found > num_classes:
        raise error
    warnings.warn(f"{error} As it is, {num_classes - found} of its classes never occur.", stacklevel=2)


def check_logits(logits: Any, num_classes: int) -> None:
    """Refuse what a network returns unless it is logits of as many classes as a classifier knows.

    Args:
        logits: What the network returned for a batch. Only its shape is looked at.
        num_classes: Number of classes of the classifier.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it has another shape than ``(batch, num_classes)``.
    """
    if not isinstance(logits, Tensor):
        raise InvalidTypeError(
            expected=f"logits of shape (batch, {num_classes}) from the network",
            got=f"a {type(logits).__name__}",
            cure="a network that returns one tensor",
        )
    if logits.ndim != 2:
        raise InvalidValueError(
            expected=f"logits of shape (batch, {num_classes}) from the network",
            got=tuple(logits.shape),
            cure="flatten what it returns",
        )
    if logits.shape[1] != num_classes:
        raise InvalidValueError(
            expected=f"num_classes={num_classes} outputs from the network",
            got=f"{logits.shape[1]}",
            cure=f"give the classifier num_classes={logits.shape[1]}, or the network {num_classes} outputs",
        )
