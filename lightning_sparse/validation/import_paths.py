"""Objects by import path, as configurations name them."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any

from lightning_sparse.validation.errors import InvalidValueError


def import_object(path: str, *, expected: str) -> object:
    """Return the object at an import path.

    Args:
        path: "package.module.attribute" or "package.module:attribute".
        expected: Noun phrase for what else the path could have been, for the message.

    Raises:
        InvalidValueError: If there is no such object.

    >>> import_object("math.floor", expected="a function")(1.5)
    1
    """
    if "." not in path and ":" not in path:
        raise InvalidValueError(expected=expected, got=repr(path), cure="use one of these, or package.module.attribute")
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InvalidValueError(
            expected=expected, got=f"{path!r}, which can't be imported ({error})", cure="check the path"
        ) from error


def import_callable(path: str, *, expected: str) -> Callable[..., Any]:
    """Return what an import path leads to, which can be called.

    Args:
        path: Import path, as for `import_object`.
        expected: Noun phrase for what it should lead to.

    Raises:
        InvalidValueError: If it leads nowhere, or to something that can't be called.
    """
    found = import_object(path, expected=expected)
    if not callable(found):
        raise InvalidValueError(expected=expected, got=repr(found), cure="the import path of one")
    return found
