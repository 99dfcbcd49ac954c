"""Numbers are Python's or NumPy's, within their range, and never truth values."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest

from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import check_integer, check_real, is_integer, is_real

WORDS = {"expected": "a number", "cure": "give one"}


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(1)])
def test_an_integer_in_range_becomes_pythons(value: object) -> None:
    checked = check_integer(value, 1, **WORDS)
    assert checked == value
    assert type(checked) is int


@pytest.mark.parametrize("value", [0, -1, True, np.True_, 1.0, "1", None, nan])
def test_what_is_no_integer_in_range_is_refused(value: object) -> None:
    assert not is_integer(value, 1)
    with pytest.raises(InvalidValueError, match=r"Expected a number; got .*Cure: give one"):
        check_integer(value, 1, **WORDS)


def test_an_integer_may_have_a_maximum() -> None:
    assert is_integer(5, 1, 5)
    assert not is_integer(6, 1, 5)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.int64(1)])
def test_a_real_number_in_range_becomes_pythons(value: object) -> None:
    checked = check_real(value, 0, 1, **WORDS)
    assert checked == value
    assert type(checked) is float


@pytest.mark.parametrize("value", [-0.1, 1.1, nan, inf, True, "0.5", None, 1j])
def test_what_is_no_real_number_in_range_is_refused(value: object) -> None:
    assert not is_real(value, 0, 1)
    with pytest.raises(InvalidValueError, match=r"Expected a number; got .*Cure: give one"):
        check_real(value, 0, 1, **WORDS)
