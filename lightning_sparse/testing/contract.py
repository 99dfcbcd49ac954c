"""What a contract is made of: named properties, and one error that lists those that fail."""

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
        failures: What was raised for each property that failed, by the property's name.
    """

    def __init__(self, message: str, failures: Mapping[str, Exception]) -> None:
        super().__init__(message)
        self.failures = dict(failures)


def expect(holds: bool, expected: str, got: object, cure: str) -> None:
    """Raise an AssertionError if something does not hold; unlike an assert statement under `python -O` too.

    Args:
        holds: What must be true.
        expected: What that means, in words.
        got: What was found instead.
        cure: What to change in the rule, recipe or callback.

    Raises:
        AssertionError: With the three of them.
    """
    if not holds:
        raise AssertionError(f"Expected {expected}; got {got}. Cure: {cure}.")


def named(*properties: Callable[[_Subject], None]) -> dict[str, Callable[[_Subject], None]]:
    """Return properties by their names.

    >>> list(named(expect))
    ['expect']
    """
    return {each.__name__: each for each in properties}


def check(kind: str, subject: _Subject, properties: Mapping[str, Callable[[_Subject], None]]) -> None:
    """Check every property, the later ones even if earlier ones fail; global random states are put back.

    A property that can't be checked on this platform raises `unittest.SkipTest`, which pytest understands too; here
    it becomes a warning.

    Raises:
        ContractError: If any property fails, by whatever exception, with all that do.
    """
    failures: dict[str, Exception] = {}
    for name, holds in properties.items():
        try:
            with seeded(0):
                holds(subject)
        except SkipTest as reason:
            warnings.warn(f"The property {name} was not checked: {reason}", stacklevel=3)
        except Exception as error:  # whatever a stranger's code raises
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
