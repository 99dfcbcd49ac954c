"""Checks of numbers that users give: Python's or NumPy's, but no truth values."""

from __future__ import annotations

from math import inf, isnan
from numbers import Integral, Real
from typing import TypeGuard

from lightning_sparse.validation.errors import InvalidValueError


def is_integer(value: object, minimum: float = -inf, maximum: float = inf) -> TypeGuard[int]:
    """Tell whether a value is an integer in a closed range.

    >>> [is_integer(value, 1) for value in (2, 0, 2.0, True)]
    [True, False, False, False]
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and minimum <= int(value) <= maximum


def is_real(value: object, minimum: float = -inf, maximum: float = inf) -> TypeGuard[float]:
    """Tell whether a value is a real number in a closed range, and not NaN.

    >>> [is_real(value, 0, 1) for value in (0.5, 1, 1.5, float("nan"), True)]
    [True, True, False, False, False]
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return not isnan(value) and minimum <= float(value) <= maximum


def check_integer(value: object, minimum: float = -inf, *, expected: str, cure: str) -> int:
    """Return a value as Python's integer.

    Args:
        value: Number to check.
        minimum: Least value that is allowed.
        expected: Noun phrase for what is needed, for the message.
        cure: Advice on how to correct it, for the message.

    Raises:
        InvalidValueError: If it is no integer, or below the minimum.
    """
    if not is_integer(value, minimum):
        raise InvalidValueError(expected=expected, got=repr(value), cure=cure)
    return int(value)


def check_real(value: object, minimum: float = -inf, maximum: float = inf, *, expected: str, cure: str) -> float:
    """Return a value as Python's float.

    Args:
        value: Number to check.
        minimum: Least value that is allowed.
        maximum: Largest value that is allowed.
        expected: Noun phrase for what is needed, for the message.
        cure: Advice on how to correct it, for the message.

    Raises:
        InvalidValueError: If it is no real number, NaN, or outside of the range.
    """
    if not is_real(value, minimum, maximum):
        raise InvalidValueError(expected=expected, got=repr(value), cure=cure)
    return float(value)
