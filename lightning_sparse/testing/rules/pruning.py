"""The contract of pruning rules."""

from __future__ import annotations

from lightning_sparse.testing.contract import check, named
from lightning_sparse.testing.rules.exact_budget import conserve
from lightning_sparse.testing.rules.scores import SCORE_PROPERTIES
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.layer import WeightScore
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.redistribution import REDISTRIBUTION


def keeps_the_budget_with_every_partner(rule: WeightScore) -> None:
    """Ask for an exact number of active weights with every registered redistribution and growth rule."""
    for redistribution, claim in REDISTRIBUTION.items():
        for growth, grow in GROWTH.items():
            conserve(Recipe(rule, claim, grow), f"redistribution {redistribution!r} and growth {growth!r}")


# These are checked for every registered pruning rule, and for users' own.
PRUNING_PROPERTIES = named(
    *SCORE_PROPERTIES,
    keeps_the_budget_with_every_partner,
)


def check_pruning(rule: WeightScore) -> None:
    """Check a pruning rule of your own against everything that the library expects of one.

    Args:
        rule: A function of one `LayerView` that returns one score per weight.

    Raises:
        ContractError: With every property that the rule lacks.

    >>> check_pruning(lambda layer: layer.weight.abs())
    """
    check("pruning rule", rule, PRUNING_PROPERTIES)
