"""Arguments of pictures: checks, conversion to arrays, and names of layers that fit beside the axes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_sparse.validation.errors import InvalidValueError

# Longest name, in characters, that fits beside a picture.
_LONGEST = 26


def as_array(values: Tensor | ArrayLike) -> NDArray[np.float64]:
    """Return numbers on any device, in any precision, as a float64 array."""
    if isinstance(values, Tensor):
        return np.asarray(values.detach().to("cpu", torch.float64).numpy())
    return np.asarray(values, dtype=np.float64)


def as_mask(mask: Tensor | ArrayLike) -> NDArray[np.bool_]:
    """Return a mask as an array of at least two dimensions.

    Raises:
        ValueError: If it is empty, has fewer dimensions, or values other than True and False, or 1 and 0.
    """
    array = np.asarray(mask.detach().to("cpu").numpy() if isinstance(mask, Tensor) else mask)
    if array.ndim < 2 or not array.size:
        raise InvalidValueError(
            expected="a mask of shape (out, in, *kernel)",
            got=f"shape {array.shape}",
            cure="pass one of the masks of a SparseNetwork",
        )
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise InvalidValueError(
            expected="True and False, or 1 and 0, in a mask",
            got=f"{array.dtype} with other values",
            cure="pass a mask, not the weights",
        )
    return array.astype(np.bool_, copy=False)


def check_series(xs: Sequence[float], series: Mapping[str, Collection[Any]], of: str = "layer") -> None:
    """Check that series have one value per epoch or step.

    Args:
        xs: Epochs or steps.
        series: By name, one value for each epoch or step.
        of: Noun for the message: "layer", for instance.

    Raises:
        ValueError: If there is nothing to draw, or not one value for each epoch or step.
    """
    check_not_empty(series, of)
    if not len(xs):
        raise InvalidValueError(
            expected="at least one epoch or step to draw",
            got="none",
            cure="draw after something was measured",
        )
    for name, values in series.items():
        if len(values) != len(xs):
            raise InvalidValueError(
                expected=f"one value of {name!r} for each of {len(xs)} epochs or steps",
                got=len(values),
                cure="put NaN where nothing was measured",
            )


def check_not_empty(series: Mapping[str, Any], of: str) -> None:
    """Check that there is something to draw.

    Raises:
        ValueError: If the mapping is empty.
    """
    if not series:
        raise InvalidValueError(
            expected=f"at least one {of} to draw",
            got="none",
            cure="draw after something was measured",
        )


def as_fractions(name: str, values: Tensor | ArrayLike) -> NDArray[np.float64]:
    """Return fractions in [0, 1] as an array; NaN is allowed.

    Raises:
        ValueError: If one is out of range.
    """
    array = as_array(values)
    if (outside := array[(array < 0) | (array > 1)]).size:
        raise InvalidValueError(
            expected=f"fractions in [0, 1] for {name!r}",
            got=f"{outside[0]:g}",
            cure="divide percentages by 100",
        )
    return array


def short_names(names: Collection[str]) -> list[str]:
    """Return names of layers without their common parts, and without the middle of long ones.

    >>> short_names(["model.conv1.weight", "model.fc.weight"])
    ['conv1', 'fc']
    """
    parts = [name.split(".") for name in names]
    if all(len(path) > 1 and path[-1] == "weight" for path in parts):
        parts = [path[:-1] for path in parts]
    # A number alone is no name.
    while (first := {path[0] for path in parts}) and len(first) == 1 and all(_is_name(path[1:]) for path in parts):
        parts = [path[1:] for path in parts]
    whole = [".".join(path) for path in parts]
    short = [name if len(name) <= _LONGEST else f"{name[:8]}…{name[9 - _LONGEST :]}" for name in whole]
    return [as_text(name) for name in (short if len(set(short)) == len(whole) else whole)]


def as_text(name: str) -> str:
    """Return a name that Matplotlib shows literally: it reads $ as mathematics and omits _x from legends."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _is_name(parts: Sequence[str]) -> bool:
    return bool(parts) and not parts[0][:1].isdigit()


def first_names(names: Sequence[str], most: int = 3) -> str:
    """Return the first few names and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
