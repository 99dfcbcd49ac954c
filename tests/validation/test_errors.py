"""Errors name what was expected, what came and the cure, and stay what they are in copies and other processes."""

from __future__ import annotations

import pickle

import pytest

from lightning_sparse._compat import ConfigurationError, MisconfigurationException
from lightning_sparse.topology import MissingSignalError, NonFiniteError, ShardingError
from lightning_sparse.validation.errors import (
    InvalidStateError,
    InvalidTypeError,
    InvalidValueError,
    MissingAttributeError,
    MissingFileError,
    MissingPackageError,
    UsageError,
)

PARTS = {"expected": "two of them", "got": 3, "cure": "take one away"}
TEXT = "Expected two of them; got 3. Cure: take one away."
KINDS = [
    (InvalidValueError, ValueError),
    (InvalidTypeError, TypeError),
    (InvalidStateError, RuntimeError),
    (MissingAttributeError, AttributeError),
    (MissingFileError, FileNotFoundError),
    (MissingPackageError, ModuleNotFoundError),
    (ConfigurationError, MisconfigurationException),
    (MissingSignalError, RuntimeError),
    (NonFiniteError, ValueError),
    (ShardingError, ValueError),
]


@pytest.mark.parametrize(("kind", "builtin"), KINDS)
def test_an_error_is_of_its_kind_and_says_its_three_parts(kind: type[UsageError], builtin: type[Exception]) -> None:
    error = kind(**PARTS)
    assert isinstance(error, UsageError)
    assert isinstance(error, builtin)
    assert str(error) == TEXT
    assert (error.expected, error.got, error.cure) == tuple(PARTS.values())


@pytest.mark.parametrize(("kind", "_"), KINDS)
def test_a_pickled_error_is_the_same(kind: type[UsageError], _: type[Exception]) -> None:
    copy = pickle.loads(pickle.dumps(kind(**PARTS)))
    assert type(copy) is kind
    assert str(copy) == TEXT
    assert copy.cure == PARTS["cure"]


def test_a_whole_message_is_taken_as_it_is() -> None:
    assert str(InvalidValueError("Caught it in a worker")) == "Caught it in a worker"


def test_none_can_be_what_came() -> None:
    assert str(InvalidTypeError("a module", None, "pass one")) == "Expected a module; got None. Cure: pass one."
