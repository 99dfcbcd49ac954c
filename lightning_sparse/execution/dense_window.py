"""How many steps of real gradients an inactive weight needs before growth can decide about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, inf, log
from typing import Any

from torch.optim import Optimizer

from lightning_sparse.network.signals import DECAY

# Share of an average that may be older than the window.
REMAINDER = 0.01


def dense_steps(decays: Iterable[float]) -> float:
    """Return the number of steps after which averages have forgotten what was before, up to 1 %.

    Args:
        decays: Decay rates of the averages, in [0, 1].

    Returns:
        The largest `ceil(log(0.01) / log(decay))`, at least 1; infinity for an average that forgets nothing.

    >>> dense_steps([0.9]), dense_steps([0.9, 0.999]), dense_steps([0.0])
    (44, 4603, 1)
    """
    return max((_forgets_after(decay) for decay in decays), default=1)


def _forgets_after(decay: float) -> float:
    if decay >= 1:
        return inf
    return 1 if decay <= REMAINDER else ceil(log(REMAINDER) / log(decay))


def decay_rates(optimizer: Optimizer) -> list[float] | None:
    """Return the decay rates of all averages that an optimizer keeps of gradients; None if they are unknown.

    Those of Adam are both of its betas: a weight that grows with a second moment that has seen few gradients would take
    too long steps. Without momentum it is the rate of the average that is kept instead.

    Args:
        optimizer: The optimizer.

    >>> import torch
    >>> decay_rates(torch.optim.AdamW([torch.zeros(1)])), decay_rates(torch.optim.SGD([torch.zeros(1)], lr=1.0))
    ([0.9, 0.999], [0.9])
    """
    found = [_of_group(group) for group in optimizer.param_groups]
    if any(rates is None for rates in found):
        return None
    return [rate for rates in found if rates is not None for rate in rates]


def _of_group(group: Mapping[str, Any]) -> list[float] | None:
    if "betas" in group:
        return [float(beta) for beta in group["betas"]]
    if "momentum" not in group:
        return None
    rates = [float(group["momentum"]) or DECAY]
    return [*rates, float(group["alpha"])] if "alpha" in group else rates
