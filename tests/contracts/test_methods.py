"""Every registered method has every property of methods."""

from __future__ import annotations

import pytest
import torch

from lightning_sparse.methods import Method
from lightning_sparse.methods.registry import METHODS
from lightning_sparse.testing import METHOD_PROPERTIES
from lightning_sparse.testing.equality import differences
from lightning_sparse.testing.methods.method import Subject
from lightning_sparse.topology import RECIPES


@pytest.mark.parametrize("holds", METHOD_PROPERTIES)
@pytest.mark.parametrize("registered", METHODS)
def test_method(registered: str, holds: str) -> None:
    METHOD_PROPERTIES[holds](Subject(METHODS[registered]))


class HasGenerator(Method):
    """Makes its generator at once."""

    def __init__(self) -> None:
        self.generator = torch.Generator()


def test_a_method_may_make_its_generator_in_its_constructor() -> None:
    METHOD_PROPERTIES["the_method_that_was_given_stays_as_it_is"](Subject(HasGenerator))


def test_generators_differ_by_their_states() -> None:
    one, other = torch.Generator(), torch.Generator()
    assert differences({"random": one}, {"random": other}) == []
    other.manual_seed(3)
    assert differences({"random": one}, {"random": other}) == ["/random"]


def test_no_name_is_that_of_a_recipe_and_of_a_method() -> None:
    assert not set(METHODS) & set(RECIPES)
