"""Exact budgets over several updates, for a rule among all partners it may be combined with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_sparse.testing.contract import expect
from lightning_sparse.testing.evidence import after, network
from lightning_sparse.topology.layer import LayerView
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.rewire import Rewiring, rewire

PRUNE_RATES = (0.0, 0.3, 1.0)
UPDATES = 3
MINIMUM = 1


def conserve(recipe: Recipe, partners: str) -> None:
    """Ask that the number of active weights is the same after each of several updates, at every prune rate.

    Args:
        recipe: The rule and its partners.
        partners: Their names, for messages.
    """
    for prune_rate in PRUNE_RATES:
        layers = network()
        budget = sum(_active(layer.mask) for layer in layers)
        for update in range(UPDATES):
            rewiring = rewire(layers, recipe, prune_rate, min_active=MINIMUM)
            _check(layers, rewiring, budget, f"after update {update + 1} at prune rate {prune_rate} with {partners}")
            layers = [after(layer, rewiring, seed=update) for layer in layers]


def _check(layers: Sequence[LayerView], rewiring: Rewiring[Tensor], budget: int, when: str) -> None:
    counts = {name: _active(mask) for name, mask in rewiring.masks.items()}
    reported = {change.name: change.active for change in rewiring.changes}
    expect(
        sum(counts.values()) == budget and counts == reported,
        f"{budget} active weights {when}, in the layers {list(reported.values())}",
        f"{sum(counts.values())}, in the layers {list(counts.values())}",
        "score every weight with a number, claim a number >= 0, and change no mask",
    )
    # A layer that has fewer than the minimum already may keep what it has.
    short = [layer.name for layer in layers if counts[layer.name] < min(MINIMUM, _active(layer.mask))]
    expect(not short, f"at least {MINIMUM} active weight in each layer {when}", f"none in {short}", "change no mask")


def _active(mask: Tensor) -> int:
    return int(torch.count_nonzero(mask))
