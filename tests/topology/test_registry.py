from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from lightning_sparse.topology.growth import GROWTH, momentum
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.recipes import RECIPES, RIGL
from lightning_sparse.topology.redistribution import REDISTRIBUTION
from lightning_sparse.topology.registry import resolve

growth = partial(resolve, "growth rule", known=GROWTH)


def test_a_known_name_stands_for_its_entry_even_if_that_is_none() -> None:
    assert growth("momentum") is momentum
    assert resolve("redistribution rule", "none", REDISTRIBUTION) is None


@pytest.mark.parametrize("path", ["math.sqrt", "math:sqrt"])
def test_an_import_path_stands_for_what_it_names(path: str) -> None:
    from math import sqrt

    assert growth(path) is sqrt


def test_a_rule_stands_for_itself() -> None:
    assert growth(len) is len


@pytest.mark.parametrize("name", ["momentun", "", ".", "no.such.module", "math.no_such_name", "math.", ".mine.rule"])
def test_an_unknown_name_or_path_is_refused_with_the_known_names(name: str) -> None:
    known = "momentum, random, gradient"
    assert known in ", ".join(GROWTH)
    with pytest.raises(ValueError, match=rf"growth rule from {known}.*, or an import path; got ") as caught:
        growth(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("choice", [None, 3, "math.pi"])
def test_what_is_no_rule_is_refused(choice: Any) -> None:
    with pytest.raises(TypeError, match=r"Expected a growth rule as a name .* got"):
        growth(choice)


def test_what_is_accepted_can_be_narrowed() -> None:
    is_recipe = partial(isinstance, RIGL)

    def accepts(choice: object) -> bool:
        return isinstance(choice, Recipe)

    assert is_recipe(Recipe)
    assert resolve("method", RIGL, RECIPES, accepts) is RIGL
    assert resolve("method", "lightning_sparse.topology.recipes.RIGL", RECIPES, accepts) is RIGL
    with pytest.raises(TypeError, match="Expected a method"):
        resolve("method", len, RECIPES, accepts)
