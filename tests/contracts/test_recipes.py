"""Every registered recipe has every property of recipes."""

from __future__ import annotations

import pytest

from lightning_sparse.testing import RECIPE_PROPERTIES
from lightning_sparse.topology import RECIPES


@pytest.mark.parametrize("holds", RECIPE_PROPERTIES)
@pytest.mark.parametrize("registered", RECIPES)
def test_recipe(registered: str, holds: str) -> None:
    RECIPE_PROPERTIES[holds](RECIPES[registered])
