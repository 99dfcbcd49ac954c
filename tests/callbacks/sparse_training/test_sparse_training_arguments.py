"""Every wrong argument is refused where it is given, with what was expected and what came."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tiny_training import by_index, squared
from torch import nn

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.topology.recipes import RIGL

SHARED: list[tuple[dict[str, Any], str]] = [
    ({"density": 0}, r"Expected a density in \(0, 1\].*got 0\. Cure"),
    ({"density": 1.5}, r"Expected a density in \(0, 1\].*got 1\.5\. Cure"),
    ({"density": -0.1}, r"Expected a density in \(0, 1\].*got -0\.1"),
    ({"density": 95}, r"got 95\. Cure: for a sparsity of 95 % the density is 0\.05"),
    ({"density": True}, r"Expected a density.*got True"),
    ({"density": "0.1"}, r"Expected a density.*got '0\.1'"),
    ({"density": float("nan")}, r"Expected a density.*got nan"),
    ({"density": {"*": 0.1, "head": 2}}, r"Expected a density.*got 2"),
    ({"density": {}}, r"Expected .*densit.*got"),
    ({"density": {"*": 0.1}, "distribution": "erdos_renyi"}, r"Expected either.*got.*'erdos_renyi'"),
    ({"prune_rate": -0.1}, r"Expected a prune rate in \[0, 1\].*got -0\.1\. Cure"),
    ({"prune_rate": 1.1}, r"Expected a prune rate in \[0, 1\].*got 1\.1"),
    ({"prune_rate": 50}, r"Expected a prune rate in \[0, 1\].*got 50"),
    ({"prune_rate": True}, r"Expected a prune rate.*got True"),
    ({"prune_rate": "half"}, r"Expected a prune rate.*got 'half'"),
    ({"prune_rate": float("nan")}, r"Expected a prune rate.*got nan"),
    ({"schedule": "cosin"}, r"Expected a schedule from constant, linear, cosine, or an import path; got 'cosin'"),
    ({"schedule": "no.such.module"}, r"Expected a schedule.*got 'no\.such\.module', which can't be imported"),
    ({"schedule": "math.pi"}, r"Expected a schedule.*got 3\.14"),
    ({"schedule": 0.5}, r"Expected a schedule.*got 0\.5"),
    ({"schedule": None}, r"Expected a schedule.*got None"),
    ({"every_n_epochs": 0}, r"Expected a period .*of at least 1.*got 0"),
    ({"every_n_epochs": -1}, r"Expected a period.*got -1"),
    ({"every_n_epochs": 1.5}, r"Expected a period.*an integer; got 1\.5"),
    ({"every_n_epochs": True}, r"Expected a period.*got True"),
    ({"every_n_steps": 0}, r"Expected a period.*got 0"),
    ({"every_n_steps": "10"}, r"Expected a period.*got '10'"),
    ({"every_n_epochs": 1, "every_n_steps": 5}, r"Expected a period in epochs or in steps; got.*=1.*=5\. Cure"),
    ({"distribution": "erk"}, r"Expected a distribution from uniform, erdos_renyi, erdos_renyi_kernel; got 'erk'"),
    ({"distribution": None}, r"Expected a distribution.*got None"),
    ({"distribution": ["uniform"]}, r"Expected a distribution.*got \['uniform'\]"),
    ({"min_active": -1}, r"Expected a minimum.*an integer >= 0; got -1"),
    ({"min_active": 1.0}, r"Expected a minimum.*got 1\.0"),
    ({"min_active": True}, r"Expected a minimum.*got True"),
    ({"include": 3}, r"Expected a glob or a module type to choose layers by; got 3"),
    ({"include": ["net", 3]}, r"Expected a glob or a module type.*got 3"),
    ({"exclude": [None]}, r"Expected a glob or a module type.*got None"),
    ({"exclude": int}, r"Expected a glob or a module type.*got <class 'int'>"),
    ({"dense": nn.Linear(1, 1)}, r"Expected a glob or a module type.*got Linear"),
    ({"seed": "zero"}, r"Expected .*seed.*got 'zero'"),
    ({"seed": 1.5}, r"Expected .*seed.*got 1\.5"),
]
RULES: list[tuple[dict[str, Any], str]] = [
    ({"pruning": "magnitud"}, r"Expected a pruning rule from magnitude, signed_magnitude.*got 'magnitud'"),
    ({"pruning": None}, r"Expected a pruning rule.*got None"),
    ({"redistribution": "gradient"}, r"Expected a redistribution rule from momentum, .*, none.*got 'gradient'"),
    ({"redistribution": ""}, r"Expected a redistribution rule.*got ''"),
    ({"redistribution": 0}, r"Expected a redistribution rule.*got 0"),
    ({"redistribution": False}, r"Expected a redistribution rule.*got False"),
    ({"growth": "none"}, r"Expected a growth rule from momentum, random, gradient.*got 'none'"),
    ({"growth": "lightning_sparse.topology.growth.nothing"}, r"Expected a growth rule.*can't be imported.*'nothing'"),
    ({"growth": "lightning_sparse.topology.growth"}, r"Expected a growth rule.*got <module"),
    ({"growth": 1}, r"Expected a growth rule.*got 1"),
    ({"keep_regrown": "no"}, r"Expected .*keep_regrown.*got 'no'"),
]
RECIPES: list[tuple[dict[str, Any], str]] = [
    ({"recipe": "sparse_momentun"}, r"Expected a recipe from sparse_momentum, set.*got 'sparse_momentun'"),
    ({"recipe": None}, r"Expected a recipe.*got None"),
    ({"recipe": by_index}, r"Expected a recipe.*got <function by_index"),
    ({"recipe": "tiny_training.by_index"}, r"Expected a recipe.*got <function by_index"),
]

REFUSAL = re.compile(r"Expected .+; got .+\. Cure: .+", re.DOTALL)


def name_of(value: object) -> str:
    """Return a test's name for an argument: without addresses in memory, which differ between processes."""
    return re.sub(r" at 0x\w+", "", str(value))


@pytest.mark.parametrize(("options", "message"), [*SHARED, *RULES], ids=name_of)
def test_sparse_momentum_refuses_a_wrong_argument(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        SparseMomentumCallback(**options)
    assert REFUSAL.search(str(caught.value))


@pytest.mark.parametrize(("options", "message"), [*SHARED, *RECIPES], ids=name_of)
def test_sparse_training_refuses_a_wrong_argument(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        SparseTrainingCallback(**options)
    assert REFUSAL.search(str(caught.value))


@pytest.mark.parametrize("callback_class", [SparseMomentumCallback, SparseTrainingCallback])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"density": 1},
        {"density": {"head": 1.0, "*": 0.1}},
        {"prune_rate": 0},
        {"prune_rate": 1},
        {"schedule": squared},
        {"schedule": "tiny_training.squared"},
        {"every_n_epochs": 3},
        {"every_n_steps": 100},
        {"every_n_steps": 100, "every_n_epochs": None},
        {"include": "net.*", "exclude": ["net.1", nn.Conv2d], "dense": ("net.0",)},
        {"min_active": 0},
        {"seed": 0},
    ],
    ids=name_of,
)
def test_right_arguments_are_taken(callback_class: type[SparseTrainingCallback], options: dict[str, Any]) -> None:
    callback = callback_class(**options)
    assert not hasattr(callback, "network")
    assert callback.history == []
    assert not callback.state_dict().get("network")


def test_a_recipe_is_taken_by_name_by_path_and_as_it_is() -> None:
    for recipe in ("rigl", "lightning_sparse.topology.recipes.RIGL", RIGL):
        assert isinstance(SparseTrainingCallback(recipe), SparseTrainingCallback)


def test_arguments_are_not_changed() -> None:
    density, include = {"head": 1.0, "*": 0.1}, ["net.*"]
    SparseMomentumCallback(density=density, include=include)
    assert (density, include) == ({"head": 1.0, "*": 0.1}, ["net.*"])
