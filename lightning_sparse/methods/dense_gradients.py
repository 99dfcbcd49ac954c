"""In which steps inactive weights need their real gradients, where sparse kernels compute none."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from torch.optim import Optimizer

from lightning_sparse.execution.dense_window import decay_rates, dense_steps
from lightning_sparse.methods.base import Method
from lightning_sparse.methods.rules import Rules
from lightning_sparse.topology.layer import signals_of
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.redistribution import REDISTRIBUTION


def steps_needed(rules: Rules, method: Method | None, optimizers: Iterable[Optimizer]) -> float:
    """Return how many steps before an update inactive weights need their gradients in, or infinity for all.

    Growth by momentum needs as many as the optimizers' averages remember (see `dense_steps`), growth by gradients one,
    random growth none. The claims of this package look at active weights only; claims and counts of others may look at
    all. A method that asks for a signal, or works with gradients, gets all.

    Args:
        rules: Rules of a run.
        method: Its method, if it has one.
        optimizers: Its optimizers; those whose averages are unknown need all steps.
    """
    if method is not None:
        works_with_gradients = type(method).gradients_ready is not Method.gradients_ready
        return inf if method.signals or works_with_gradients else 0
    recipes = [*rules.recipe.values()] if isinstance(rules.recipe, dict) else [rules.recipe]
    signals = frozenset[str]().union(*map(_decides_by, recipes))
    if "momentum" in signals:
        rates = [decay_rates(optimizer) for optimizer in optimizers]
        known = [rate for each in rates for rate in each or []]
        return inf if None in rates else dense_steps(known)
    return 1 if "gradient" in signals else 0


def _decides_by(recipe: Recipe) -> frozenset[str]:
    """Return the signals that a recipe needs of inactive weights."""
    own_claim = recipe.redistribute in REDISTRIBUTION.values()
    claim = frozenset[str]() if own_claim else signals_of(recipe.redistribute)
    return signals_of(recipe.grow) | signals_of(recipe.count) | claim


def steps_left_in_epoch(batches: float, batch: int, accumulated: int) -> float:
    """Return how many optimizer steps an epoch still has, that of the present batch included.

    Args:
        batches: Number of its batches; infinity if it is unknown.
        batch: Number of the present one, from 0.
        accumulated: Number of batches for one step; the last one of an epoch always steps.

    >>> [steps_left_in_epoch(10, batch, 3) for batch in range(10)]
    [4, 4, 4, 3, 3, 3, 2, 2, 2, 1]
    """
    return inf if batches == inf else -(-int(batches) // accumulated) - batch // accumulated
