"""Rules and recipes by name, by import path, or as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import TypeVar, cast

from lightning_sparse.validation.errors import InvalidTypeError
from lightning_sparse.validation.import_paths import import_object

_Entry = TypeVar("_Entry")


def takes_one_argument(choice: object) -> bool:
    """Tell whether something is a function of one argument, as far as that can be known.

    >>> [takes_one_argument(choice) for choice in (len, divmod, int, 3)]
    [True, False, False, False]
    """
    if not callable(choice) or isinstance(choice, type):  # calling a type makes an object, which is no score
        return False
    try:
        parameters = signature(choice)
    except (TypeError, ValueError):  # some functions of other languages don't tell
        return True
    try:
        parameters.bind(None)
    except TypeError:
        return False
    return True


def resolve(
    kind: str, choice: object, known: Mapping[str, _Entry], accepts: Callable[[object], bool] = takes_one_argument
) -> _Entry:
    """Return what a choice stands for: a name in `known`, an import path `"package.module.attribute"`, or itself.

    Args:
        kind: Noun for the choice, for messages ("growth rule").
        choice: A name, an import path or a function.
        known: The registry of that kind.
        accepts: Test of a choice that is no name; default: whether it is a function of one argument.

    Raises:
        ValueError: If the name is unknown or the path can't be imported.
        TypeError: If the choice is not accepted.
    """
    if isinstance(choice, str):
        if choice in known:
            return known[choice]
        choice = import_object(choice, expected=f"a {kind} from {', '.join(known)}, or an import path")
    if not accepts(choice):
        own = "a function of one argument" if accepts is takes_one_argument else "one of your own"
        raise InvalidTypeError(
            expected=f"a {kind} as a name ({', '.join(known)}), an import path, or {own}",
            got=repr(choice),
            cure="name one of these",
        )
    return cast(_Entry, choice)  # of a type that its first use will show
