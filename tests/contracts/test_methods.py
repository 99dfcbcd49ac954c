"""Every registered method has every property of methods."""

from __future__ import annotations

import pytest

from lightning_sparse.methods.registry import METHODS
from lightning_sparse.testing import METHOD_PROPERTIES
from lightning_sparse.testing.methods.method import Subject
from lightning_sparse.topology import RECIPES


@pytest.mark.parametrize("holds", METHOD_PROPERTIES)
@pytest.mark.parametrize("registered", METHODS)
def test_method(registered: str, holds: str) -> None:
    METHOD_PROPERTIES[holds](Subject(METHODS[registered]))


def test_no_name_is_that_of_a_recipe_and_of_a_method() -> None:
    assert not set(METHODS) & set(RECIPES)
