"""What pictures are given: refused where it can't be drawn, as arrays where it can, with names that fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_sparse.validation.errors import InvalidValueError

# What fits beside a picture.
_LONGEST = 26


def as_array(values: Tensor | ArrayLike) -> NDArray[np.float64]:
    """Return numbers as an array, wherever and in whatever precision they are."""
    if isinstance(values, Tensor):
        return np.asarray(values.detach().to("cpu", torch.float64).numpy())
    return np.asarray(values, dtype=np.float64)


def as_mask(mask: Tensor | ArrayLike) -> NDArray[np.bool_]:
    """Return a mask as an array of at least two dimensions.

    Raises:
        ValueError: If it is empty, has fewer dimensions or anything but True and False, or 1 and 0.
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
            got=f"{array.dtype} of other values",
            cure="pass a mask, not the weights",
        )
    return array.astype(np.bool_, copy=False)


def check_series(xs: Sequence[float], series: Mapping[str, Collection[Any]], of: str = "layer") -> None:
    """Refuse what makes no line.

    Args:
        xs: Epochs or steps.
        series: By name, one value for each of them.
        of: What has a name.

    Raises:
        ValueError: If there is nothing to draw, or not one value for each epoch or step.
    """
    check_some(series, of)
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


def check_some(series: Mapping[str, Any], of: str) -> None:
    """Refuse an empty mapping.

    Raises:
        ValueError: If there is nothing in it.
    """
    if not series:
        raise InvalidValueError(
            expected=f"at least one {of} to draw",
            got="none",
            cure="draw after something was measured",
        )


def as_fractions(name: str, values: Tensor | ArrayLike) -> NDArray[np.float64]:
    """Return fractions in [0, 1] as an array; NaN may be among them.

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
    """Return names of layers without what they all have in common, and without the middle of long ones.

    >>> short_names(["model.conv1.weight", "model.fc.weight"])
    ['conv1', 'fc']
    """
    parts = [name.split(".") for name in names]
    if all(len(each) > 1 and each[-1] == "weight" for each in parts):
        parts = [each[:-1] for each in parts]
    # A number alone names no layer.
    while (first := {each[0] for each in parts}) and len(first) == 1 and all(_is_name(each[1:]) for each in parts):
        parts = [each[1:] for each in parts]
    whole = [".".join(each) for each in parts]
    short = [name if len(name) <= _LONGEST else f"{name[:8]}…{name[9 - _LONGEST :]}" for name in whole]
    return [as_text(name) for name in (short if len(set(short)) == len(whole) else whole)]


def as_text(name: str) -> str:
    """Return what Matplotlib writes as this name, which else takes $ for mathematics and leaves _x out of legends."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _is_name(parts: Sequence[str]) -> bool:
    return bool(parts) and not parts[0][:1].isdigit()


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first few names and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
