"""An argument with a new name still works under its old one, with a warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from lightning_sparse.validation.deprecation import renamed_argument
from lightning_sparse.validation.errors import InvalidValueError


def resize(size: int = 1, length: int | None = None) -> int:
    return renamed_argument("length", length, "size", size, default=1)


def test_the_new_name_works_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [resize(), resize(1), resize(size=5)] == [1, 1, 5]


@pytest.mark.parametrize("value", [0, 1, 5])
def test_the_old_name_works_and_warns_where_it_is_used(value: int) -> None:
    with pytest.warns(DeprecationWarning, match=r"The argument length will be removed: use size\.") as warned:
        assert resize(length=value) == value
    assert Path(warned[0].filename) == Path(__file__)


def test_the_default_beside_the_old_name_counts_as_not_given() -> None:
    with pytest.warns(DeprecationWarning, match="use size"):
        assert resize(size=1, length=5) == 5


def test_both_names_are_refused() -> None:
    with pytest.raises(
        InvalidValueError, match=r"Expected size or length, its old name; got size=2 and length=5\. Cure: drop length\."
    ):
        resize(size=2, length=5)
