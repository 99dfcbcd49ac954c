"""Old names of arguments, accepted for one more version."""

from __future__ import annotations

import warnings
from typing import TypeVar

from lightning_sparse.validation.errors import InvalidValueError

_Value = TypeVar("_Value")


def renamed_argument(
    old: str, old_value: _Value | None, new: str, new_value: _Value, *, default: _Value, stacklevel: int = 3
) -> _Value:
    """Return the value of an argument that was renamed, and warn if it came under its old name.

    Args:
        old: The old name.
        old_value: Value given under the old name; None if it wasn't used.
        new: The new name.
        new_value: Value given under the new name.
        default: Default of the new argument, which counts as not given: saved configurations list all defaults.
        stacklevel: Number of calls between the warning and the user's code, as `warnings.warn` counts them.

    Raises:
        InvalidValueError: If both names are given.
    """
    if old_value is None:
        return new_value
    if new_value != default:
        raise InvalidValueError(
            expected=f"{new} or {old}, its old name",
            got=f"{new}={new_value!r} and {old}={old_value!r}",
            cure=f"drop {old}",
        )
    warnings.warn(f"The argument {old} will be removed: use {new}.", DeprecationWarning, stacklevel=stacklevel)
    return old_value
