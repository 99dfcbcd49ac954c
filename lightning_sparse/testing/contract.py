"""Contracts: named properties, and one error that lists all that fail."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TypeVar
from unittest import SkipTest

from lightning_sparse.testing.randomness import seeded

_Subject = TypeVar("_Subject")


class ContractError(AssertionError):
    """A rule, recipe or callback lacks properties that all of its kind have.

    Attributes:
        failures: Exception of each property that failed, by the property's name.
    """

    def __init__(self, message: str, failures: Mapping[str, Exception]) -> None:
        super().__init__(message)
        self.failures = dict(failures)


def expect(holds: bool, expected: str, got: object, cure: str) -> None:
    """Raise an AssertionError unless a condition holds, under `python -O` too, unlike an assert statement.

    Args:
        holds: Condition.
        expected: Noun phrase for the expected outcome.
        got: Actual outcome.
        cure: Change to make in the rule, recipe or callback.

    Raises:
        AssertionError: If the condition doesn't hold.
    """
    if not holds:
        raise AssertionError(f"Expected {expected}; got {got}. Cure: {cure}.")


def named(*properties: Callable[[_Subject], None]) -> dict[str, Callable[[_Subject], None]]:
    """Return properties by their names.

    >>> list(named(expect))
    ['expect']
    """
    return {check_property.__name__: check_property for check_property in properties}


def check(kind: str, subject: _Subject, properties: Mapping[str, Callable[[_Subject], None]]) -> None:
    """Check every property, even if earlier ones fail, and restore the global random states.

    A property that can't be checked on this platform raises `unittest.SkipTest`, which pytest understands too; here
    it becomes a warning.

    Raises:
        ContractError: If any property raises an exception; it lists all that do.
    """
    failures: dict[str, Exception] = {}
    for name, holds in properties.items():
        try:
            with seeded(0):
                holds(subject)
        except SkipTest as reason:
            warnings.warn(f"The property {name} was not checked: {reason}", stacklevel=3)
        except Exception as error:  # users' code may raise anything
            failures[name] = error
    if failures:
        raise ContractError(_message(kind, subject, failures, len(properties)), failures) from next(
            iter(failures.values())
        )


def _message(kind: str, subject: object, failures: Mapping[str, Exception], number: int) -> str:
    lines = [
        f"Expected a {kind} with the {number} properties that all have; got {subject!r}, which fails "
        f"{len(failures)} of them. Cure: what each asks for.",
        *(f"- {name}: {_describe(error)}" for name, error in failures.items()),
    ]
    return "\n".join(lines)


def _describe(error: Exception) -> str:
    return str(error) if type(error) is AssertionError else f"{type(error).__name__}: {error}"
