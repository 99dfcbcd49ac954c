"""Objects are found by their import paths, and a wrong path says what is wrong with it."""

from __future__ import annotations

import math

import pytest

from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.import_paths import import_object


@pytest.mark.parametrize("path", ["math.floor", "math:floor"])
def test_a_path_stands_for_its_object(path: str) -> None:
    assert import_object(path, expected="a function") is math.floor


def test_a_member_of_a_class_has_a_path_too() -> None:
    assert import_object("collections.OrderedDict.fromkeys", expected="a function")("a") == {"a": None}


@pytest.mark.parametrize("path", ["floor", "math.flor", "no_such.module", "math.", ".floor", "math..floor", ""])
def test_a_wrong_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidValueError, match=r"Expected a function; got .*Cure:"):
        import_object(path, expected="a function")
