"""The contract of growth rules."""

from __future__ import annotations

from lightning_sparse.testing.contract import check, named
from lightning_sparse.testing.rules.exact_budget import conserve
from lightning_sparse.testing.rules.scores import SCORE_PROPERTIES
from lightning_sparse.topology.layer import WeightScore
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.redistribution import REDISTRIBUTION


def keeps_the_budget_with_every_partner(rule: WeightScore) -> None:
    """Ask for an exact number of active weights with every registered pruning and redistribution rule."""
    for pruning, prune in PRUNING.items():
        for redistribution, claim in REDISTRIBUTION.items():
            conserve(Recipe(prune, claim, rule), f"pruning {pruning!r} and redistribution {redistribution!r}")


# These are checked for every registered growth rule, and for users' own.
GROWTH_PROPERTIES = named(
    *SCORE_PROPERTIES,
    keeps_the_budget_with_every_partner,
)


def check_growth(rule: WeightScore) -> None:
    """Check a growth rule of your own against everything that the library expects of one.

    Args:
        rule: A function of one `LayerView` that returns one score per weight.

    Raises:
        ContractError: With every property that the rule lacks.

    >>> check_growth(lambda layer: -layer.require("momentum").abs())
    """
    check("growth rule", rule, GROWTH_PROPERTIES)
