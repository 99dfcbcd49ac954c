"""This library's errors: what was expected, what came, and the cure.

They are subclasses of Python's own, so that `except ValueError` catches them, and of `UsageError`, by which the command
line tells them from faults: a traceback adds nothing to them.
"""

from __future__ import annotations


class UsageError(Exception):
    """Base of all errors that a user can mend.

    Args:
        expected: Noun phrase for what is needed, with its unit and range; or, if nothing else is given, the whole
            message, as a process that loads data passes it on.
        got: Value that came instead. More sentences may follow, which explain.
        cure: Advice on how to correct it, without a full stop.

    >>> raise InvalidValueError(expected="two of them", got="three", cure="take one away")
    Traceback (most recent call last):
    lightning_sparse.validation.errors.InvalidValueError: Expected two of them; got three. Cure: take one away.
    """

    def __init__(self, expected: str, got: object = None, cure: str | None = None) -> None:
        self.expected, self.got, self.cure = expected, got, cure
        super().__init__(expected if cure is None else f"Expected {expected}; got {got}. Cure: {cure}.")


class InvalidValueError(UsageError, ValueError):
    """An argument, or what is read from a file, has a value that can't be used."""


class InvalidTypeError(UsageError, TypeError):
    """An argument has a type that can't be used."""


class InvalidStateError(UsageError, RuntimeError):
    """Something is asked for at a moment, or found in a state, in which it can't be done."""


class MissingAttributeError(UsageError, AttributeError):
    """An attribute is asked for before it has a value; `hasattr` and the default of `getattr` go by it."""


class MissingFileError(UsageError, FileNotFoundError):
    """A file or folder is not where it is looked for."""


class MissingPackageError(UsageError, ModuleNotFoundError):
    """An optional package is not installed.

    Args:
        expected: See `UsageError`.
        got: See `UsageError`.
        cure: See `UsageError`.
        name: Name of the package.
    """

    def __init__(self, expected: str, got: object = None, cure: str | None = None, *, name: str | None = None) -> None:
        super().__init__(expected, got, cure)
        self.name = name
