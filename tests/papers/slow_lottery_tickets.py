"""Lottery tickets, slow and obvious: loops over single weights, an ordinary training loop, zeros set by hand.

Written from Frankle & Carbin 2019 (arXiv 1803.03635, section 1) and Frankle et al. 2019 (arXiv 1903.01611, section 3),
and from the project's definition of what they leave open (exact budgets, rounding, ties), not from the package. Nothing
of the package is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

Batch = tuple[Tensor, Tensor]
Masks = dict[str, list[bool]]
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """One training.

    Attributes:
        masks: Whether each weight is active, in row-major order, by the name of the weight.
        start: Values of all parameters and buffers before it.
        end: Values after it.
    """

    masks: Masks
    start: Values
    end: Values


def slow_lottery_tickets(
    model: nn.Module,
    weights: Sequence[str],
    batches: Sequence[Batch],
    make_optimizer: Callable[[nn.Module], Optimizer],
    densities: Sequence[float],
    rewind: int,
    ranking: str,
) -> list[Trained]:
    """Return all trainings of iterative magnitude pruning with rewinding.

    Args:
        model: Network, which is trained.
        weights: Names of its weights that can be removed.
        batches: A batch for each step of a training.
        make_optimizer: Function that returns a new optimizer.
        densities: Density of each training, the first one 1.
        rewind: Number of steps of the first training after which weights have the values to go back to.
        ranking: "layer" to remove the smallest weights of each layer, "network" those of all layers together.
    """
    everything = model.state_dict()
    masks: Masks = {name: [True] * everything[name].numel() for name in weights}
    original = _copied(model)
    trainings = []
    for index, density in enumerate(densities):
        if index:
            masks = _pruned(model, masks, density, ranking)
            with torch.no_grad():
                for name, values in model.state_dict().items():
                    values.copy_(original[name])
        _set_zeros(model, masks)
        start, optimizer = _copied(model), make_optimizer(model)
        for step, batch in enumerate(batches):
            if index == 0 and step == rewind:
                original = _copied(model)
            _step(model, optimizer, batch)
            _set_zeros(model, masks)
        trainings.append(Trained(masks, start, _copied(model)))
    return trainings


def _copied(model: nn.Module) -> Values:
    return {name: values.clone() for name, values in model.state_dict().items()}


def _step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> None:
    optimizer.zero_grad()
    cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def _set_zeros(model: nn.Module, masks: Masks) -> None:
    everything = model.state_dict()
    for name, mask in masks.items():
        flat = everything[name].view(-1)
        for position, is_active in enumerate(mask):
            if not is_active:
                flat[position] = 0.0


def _pruned(model: nn.Module, masks: Masks, density: float, ranking: str) -> Masks:
    """Return the masks without the active weights of the least magnitude; of equal ones the last is removed first."""
    everything = model.state_dict()
    sizes = {name: [abs(value) for value in everything[name].view(-1).tolist()] for name in masks}
    total = round(density * sum(map(len, masks.values())))
    # Every active weight by magnitude, then by layer, then by place.
    ranked = sorted(
        (-sizes[name][position], layer, position, name)
        for layer, (name, mask) in enumerate(masks.items())
        for position, is_active in enumerate(mask)
        if is_active
    )
    if ranking == "network":
        kept = {(name, position) for _, _, position, name in ranked[:total]}
    else:
        kept = set()
        for name, count in _budgets(masks, total).items():
            of_layer = [each for each in ranked if each[3] == name]
            kept |= {(name, position) for _, _, position, _ in of_layer[:count]}
    return {name: [(name, position) in kept for position in range(len(mask))] for name, mask in masks.items()}


def _budgets(masks: Masks, total: int) -> dict[str, int]:
    """Split a number of weights over layers in proportion to their active weights, by the largest remainder."""
    active = {name: sum(mask) for name, mask in masks.items()}
    quotas = {name: Fraction(total * count, sum(active.values())) for name, count in active.items()}
    budgets = {name: floor(quota) for name, quota in quotas.items()}
    by_remainder = sorted(budgets, key=lambda name: (budgets[name] - quotas[name], [*budgets].index(name)))
    for name in by_remainder[: total - sum(budgets.values())]:
        budgets[name] += 1
    return budgets
