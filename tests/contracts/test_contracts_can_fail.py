"""For every property there is something wrong that it catches, and what is right passes it."""

from __future__ import annotations

import multiprocessing
from typing import Any
from unittest import SkipTest

import pytest
import torch
from torch import Tensor

from contracts import wrong_callbacks, wrong_methods, wrong_rules
from lightning_sparse.testing import (
    CALLBACK_PROPERTIES,
    GROWTH_PROPERTIES,
    METHOD_PROPERTIES,
    PRUNING_PROPERTIES,
    RECIPE_PROPERTIES,
    REDISTRIBUTION_PROPERTIES,
    ContractError,
    check_callback,
    check_growth,
    check_method,
    check_pruning,
    check_recipe,
    check_redistribution,
)
from lightning_sparse.testing.contract import check
from lightning_sparse.topology import LayerView, Recipe
from lightning_sparse.topology.growth import random
from lightning_sparse.topology.pruning import magnitude

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pruning": (PRUNING_PROPERTIES, wrong_rules.PRUNING),
    "redistribution": (REDISTRIBUTION_PROPERTIES, wrong_rules.REDISTRIBUTION),
    "growth": (GROWTH_PROPERTIES, wrong_rules.GROWTH),
    "recipe": (RECIPE_PROPERTIES, wrong_rules.RECIPES),
    "callback": (CALLBACK_PROPERTIES, wrong_callbacks.CALLBACKS),
    "method": (METHOD_PROPERTIES, wrong_methods.METHODS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_property_has_something_wrong_to_catch(kind: str) -> None:
    properties, wrong = KINDS[kind]
    assert set(wrong) == set(properties)


@pytest.mark.parametrize(
    ("kind", "holds"), [(kind, holds) for kind, (properties, _) in KINDS.items() for holds in properties]
)
def test_the_property_catches_it(kind: str, holds: str) -> None:
    properties, wrong = KINDS[kind]
    with pytest.raises(ContractError, match=holds) as caught:
        check(kind, wrong[holds], {holds: properties[holds]})
    assert set(caught.value.failures) == {holds}


def both_wrong(layer: LayerView) -> Tensor:
    return layer.weight.mul_(torch.rand(()))


@pytest.mark.parametrize(
    ("check_it", "wrong", "expected"),
    [
        (check_pruning, both_wrong, {"changes_none_of_its_inputs", "leaves_global_random_states_alone"}),
        (check_growth, both_wrong, {"changes_none_of_its_inputs", "leaves_global_random_states_alone"}),
        (
            check_redistribution,
            wrong_rules.global_claim,
            {"ignores_global_seeds", "leaves_global_random_states_alone"},
        ),
        (
            check_recipe,
            Recipe(magnitude, None, wrong_rules.global_noise),
            {"the_seed_alone_decides", "continues_bit_for_bit_from_a_saved_state"},
        ),
        (
            check_callback,
            wrong_callbacks.Apart,
            {"all_ranks_have_the_same_masks_and_weights"},
        ),
    ],
    ids=[kind for kind in KINDS if kind != "method"],
)
def test_one_error_lists_all_that_fails(check_it: Any, wrong: Any, expected: set[str]) -> None:
    with pytest.raises(ContractError) as caught:
        check_it(wrong)
    assert expected <= set(caught.value.failures)
    lines = str(caught.value).splitlines()
    assert repr(wrong) in lines[0]
    assert [line.split(":")[0] for line in lines if line.startswith("- ")] == [
        f"- {name}" for name in caught.value.failures
    ]


def test_what_breaks_by_itself_is_reported_with_its_type() -> None:
    with pytest.raises(ContractError, match=r"scores_are_numbers: ZeroDivisionError: division by zero") as caught:
        check_growth(lambda layer: 1 / 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_checking_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ContractError):
        check_growth(wrong_rules.reseeding)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_property_that_a_platform_cannot_check_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    holds = "all_ranks_have_the_same_masks_and_weights"
    with pytest.raises(SkipTest, match="this platform has no fork"):
        CALLBACK_PROPERTIES[holds](wrong_callbacks.Apart)
    with pytest.warns(UserWarning, match=f"{holds} was not checked: this platform has no fork"):
        check("callback", wrong_callbacks.Apart, {holds: CALLBACK_PROPERTIES[holds]})


def test_a_callback_may_come_from_a_function_that_sets_the_density() -> None:
    holds = CALLBACK_PROPERTIES["budget_is_exact_after_every_step"]
    holds(lambda: wrong_callbacks.Sparse(density=0.1))
    with pytest.raises(AssertionError, match="Expected 8 of 80 weights active"):
        holds(lambda: wrong_callbacks.Overfull(density=0.1))


def test_the_density_is_compared_with_the_one_asked_for() -> None:
    with pytest.raises(AssertionError, match="Expected 24 of 80 weights active"):
        CALLBACK_PROPERTIES["budget_is_exact_after_every_step"](lambda density: wrong_callbacks.Sparse(density / 2))


def test_what_is_no_callback_is_refused() -> None:
    with pytest.raises(ContractError, match=r"Expected a factory that returns a new SparseTrainingCallback; got 3\."):
        check("callback", lambda: 3, {"x": CALLBACK_PROPERTIES["survives_copying_before_fit"]})


def test_a_property_that_is_added_is_asked_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_blue(rule: object) -> None:
        raise AssertionError("Expected blue.")

    monkeypatch.setitem(GROWTH_PROPERTIES, "is_blue", is_blue)
    with pytest.raises(ContractError, match="- is_blue: Expected blue"):
        check_growth(random)


def test_a_method_of_ones_own_is_checked() -> None:
    check_method(wrong_methods.Moving)
    with pytest.raises(ContractError, match="the_budget_is_exact") as caught:
        check_method(wrong_methods.Overfull)
    assert "the_budget_is_exact" in caught.value.failures
    check_method(wrong_methods.Resulting)  # whose number of weights is a result


def test_a_method_that_updates_at_a_boundary_passes() -> None:
    check_method(wrong_methods.MovesOnce)
