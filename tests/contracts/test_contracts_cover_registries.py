"""A rule, recipe or callback that is added later is covered by its registration alone."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import lightning_sparse.callbacks
from contracts.registered import sparse_callbacks
from lightning_sparse import SparseMomentumCallback
from lightning_sparse.testing import ContractError, check_growth, check_pruning, check_recipe, check_redistribution
from lightning_sparse.topology import RECIPES, LayerView, Recipe
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.pruning import PRUNING, magnitude
from lightning_sparse.topology.redistribution import REDISTRIBUTION

HERE = Path(__file__).parent


def covered(module: str, test: str) -> set[str]:
    """Return the names that a test would be collected for, if its module were imported now."""
    marks = runpy.run_path(str(HERE / module))[test].pytestmark
    arguments = {mark.args[0]: mark.args[1] for mark in marks}
    return set(arguments["registered"])


@pytest.mark.parametrize(
    ("registry", "module", "test"),
    [
        (PRUNING, "test_rules.py", "test_pruning_rule"),
        (REDISTRIBUTION, "test_rules.py", "test_redistribution_rule"),
        (GROWTH, "test_rules.py", "test_growth_rule"),
        (RECIPES, "test_recipes.py", "test_recipe"),
    ],
    ids=["pruning", "redistribution", "growth", "recipe"],
)
def test_what_is_registered_is_tested(
    monkeypatch: pytest.MonkeyPatch, registry: dict[str, Any], module: str, test: str
) -> None:
    assert covered(module, test) == set(registry)
    monkeypatch.setitem(registry, "newcomer", None)
    assert "newcomer" in covered(module, test)


def test_a_registered_recipe_is_tested_in_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "newcomer", Recipe(None, None, None))
    assert "recipe newcomer" in covered("test_callbacks.py", "test_callback")


def test_an_exported_callback_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newcomer(SparseMomentumCallback):
        pass

    assert covered("test_callbacks.py", "test_callback") == {
        "SparseMomentumCallback",
        *(f"recipe {name}" for name in RECIPES),
    }
    monkeypatch.setattr(lightning_sparse.callbacks, "Newcomer", Newcomer, raising=False)
    monkeypatch.setattr(lightning_sparse.callbacks, "__all__", [*lightning_sparse.callbacks.__all__, "Newcomer"])
    assert "Newcomer" in covered("test_callbacks.py", "test_callback")


def test_of_what_is_exported_only_sparse_callbacks_are_collected() -> None:
    package = ModuleType("package")
    vars(package).update(__all__=["number", "SparseMomentumCallback", "other"], number=3, other=Recipe)
    vars(package)["SparseMomentumCallback"] = SparseMomentumCallback
    assert set(sparse_callbacks(package, {})) == {"SparseMomentumCallback"}
    made = sparse_callbacks(package, RECIPES)["recipe set"]()
    assert type(made) is not SparseMomentumCallback


def useless(layer: LayerView) -> torch.Tensor:
    return torch.full_like(layer.weight, torch.nan)


def test_a_registered_rule_is_a_partner_of_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    check_pruning(magnitude)
    check_redistribution(None)
    with monkeypatch.context() as patch:
        patch.setitem(GROWTH, "newcomer", useless)
        for check, rule in ((check_pruning, magnitude), (check_redistribution, None)):
            with pytest.raises(ContractError) as caught:
                check(rule)
            assert set(caught.value.failures) == {"keeps_the_budget_with_every_partner"}
    monkeypatch.setitem(PRUNING, "newcomer", useless)
    with pytest.raises(ContractError, match="keeps_the_budget_with_every_partner"):
        check_growth(GROWTH["random"])


def test_a_registered_recipe_passes_as_a_whole() -> None:
    check_recipe(RECIPES["static"])
