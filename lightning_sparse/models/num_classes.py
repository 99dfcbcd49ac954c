"""Checks that data, network and metrics agree in their number of classes."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError


def check_data_classes(data: Any, num_classes: int) -> None:
    """Raise if a data module has more classes than a classifier, and warn if it has fewer.

    Args:
        data: A data module that has been set up; one without an integer ``num_classes``, or None, is accepted.
        num_classes: Number of classes of the classifier.

    Raises:
        ValueError: If the data have more classes.
    """
    data_classes = getattr(data, "num_classes", None)
    if not isinstance(data_classes, int) or data_classes == num_classes:
        return
    error = InvalidValueError(
        expected=f"data of num_classes={num_classes} classes",
        got=f"{data_classes} classes from {type(data).__name__}",
        cure=f"give the classifier num_classes={data_classes}, and its network as many outputs",
    )
    if data_classes > num_classes:
        raise error
    warnings.warn(
        f"{error} Otherwise {num_classes - data_classes} of the classifier's classes never occur.", stacklevel=2
    )


def check_logits(logits: Any, num_classes: int) -> None:
    """Raise unless the outputs of a network are logits, one per class of a classifier.

    Args:
        logits: Outputs of the network for a batch. Only their shape is checked.
        num_classes: Number of classes of the classifier.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If they have another shape than ``(batch, num_classes)``.
    """
    if not isinstance(logits, Tensor):
        raise InvalidTypeError(
            expected=f"logits of shape (batch, {num_classes}) from the network",
            got=f"a {type(logits).__name__}",
            cure="use a network that returns one tensor",
        )
    if logits.ndim != 2:
        raise InvalidValueError(
            expected=f"logits of shape (batch, {num_classes}) from the network",
            got=tuple(logits.shape),
            cure="flatten its output",
        )
    if logits.shape[1] != num_classes:
        raise InvalidValueError(
            expected=f"num_classes={num_classes} outputs from the network",
            got=f"{logits.shape[1]}",
            cure=f"give the classifier num_classes={logits.shape[1]}, or the network {num_classes} outputs",
        )
