"""The contract of redistribution rules."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor

from lightning_sparse.testing.contract import check, expect, named
from lightning_sparse.testing.evidence import DTYPES, layers
from lightning_sparse.testing.rules.every_rule import RULE_PROPERTIES, ask
from lightning_sparse.testing.rules.exact_budget import conserve
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.layer import LayerClaim, LayerView
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.recipe import Recipe


def claims_one_number(rule: LayerClaim | None) -> None:
    """Ask for one finite number >= 0, for empty, full and one-weight layers too."""
    for view in layers():
        _check_number(rule, view)


def serves_every_floating_point_type(rule: LayerClaim | None) -> None:
    """Ask for claims of layers in half, single and double precision."""
    for dtype in DTYPES:
        for view in layers(dtype):
            _check_number(rule, view)


def keeps_the_budget_with_every_partner(rule: LayerClaim | None) -> None:
    """Ask for an exact number of active weights with every registered pruning and growth rule."""
    for pruning, prune in PRUNING.items():
        for growth, grow in GROWTH.items():
            conserve(Recipe(prune, rule, grow), f"pruning {pruning!r} and growth {growth!r}")


def _check_number(rule: LayerClaim | None, view: LayerView) -> None:
    claim = 0.0 if rule is None else ask(rule, view)
    number = isinstance(claim, (int, float)) or (isinstance(claim, Tensor) and claim.numel() == 1)
    expect(
        number and isfinite(value := float(torch.as_tensor(claim))) and value >= 0,
        f"one finite number >= 0 for the layer {view.name}",
        repr(claim),
        "guard divisions by zero, sum in double precision, and reduce to one number",
    )


# These are checked for every registered redistribution rule, and for users' own.
REDISTRIBUTION_PROPERTIES = named(
    claims_one_number,
    serves_every_floating_point_type,
    *RULE_PROPERTIES,
    keeps_the_budget_with_every_partner,
)


def check_redistribution(rule: LayerClaim | None) -> None:
    """Check a redistribution rule of your own against everything that the library expects of one.

    Args:
        rule: A function of one `LayerView` that returns one number; None (each layer regrows what it lost) passes.

    Raises:
        ContractError: With every property that the rule lacks.

    >>> check_redistribution(lambda layer: float(layer.mask.sum()))
    """
    check("redistribution rule", rule, REDISTRIBUTION_PROPERTIES)
