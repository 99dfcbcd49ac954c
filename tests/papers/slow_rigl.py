"""RigL, slow and obvious: loops over single weights, and over batches as the authors' training loop has them.

Written from Evci et al. 2020 (Algorithm 1) and from the project's definition of what the paper leaves open (rounding,
ties, which batches train), not from the package. Nothing of the package is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, floor, pi

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Layer:
    """One weight, flat.

    Attributes:
        weight: Values, zero where inactive.
        mask: Whether a weight is active.
        momentum: What the optimizer keeps of it.
    """

    weight: list[float]
    mask: list[bool]
    momentum: list[float]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        every: Steps between updates.
        end: Number of steps at which updates end.
        prune_rate: Fraction of active weights that the first update moves.
        lr: Learning rate.
        momentum: Factor of the momentum of the step before.
    """

    every: int
    end: float
    prune_rate: float
    lr: float
    momentum: float


def train(
    layers: list[Layer], gradients_of: Callable[[int], list[list[float]]], batches: int, settings: Settings
) -> Iterator[bool]:
    """Train in place, and tell after each batch whether it was used for an update.

    Args:
        layers: The weights.
        gradients_of: Returns the gradients of a batch by all weights as they are now, dense, flat.
        batches: Number of batches.
        settings: How to train.
    """
    steps, last_update = 0, -settings.every
    for batch in range(batches):
        gradients = gradients_of(batch)
        updates = last_update + settings.every <= steps < settings.end
        for layer, gradient in zip(layers, gradients, strict=True):
            if updates:
                fraction = settings.prune_rate / 2 * (1 + cos(pi * (steps / settings.end)))
                update(layer, gradient, fraction)
            else:
                step(layer, gradient, settings)
        if updates:
            last_update = steps
        else:
            steps += 1
        yield updates


def update(layer: Layer, gradient: list[float], fraction: float) -> None:
    """Drop the smallest active weights, and grow as many where the gradient is largest."""
    places = range(len(layer.mask))
    active = [i for i in places if layer.mask[i]]
    number = floor(fraction * len(active))
    by_magnitude = sorted(active, key=lambda i: (-abs(layer.weight[i]), i))
    kept = set(by_magnitude[: len(active) - number])
    candidates = [i for i in places if i not in kept]
    grown = set(sorted(candidates, key=lambda i: (-abs(gradient[i]), i))[:number])
    for i in places:
        is_new = i in grown and not layer.mask[i]
        is_dropped = layer.mask[i] and i not in kept and i not in grown
        if is_new:
            layer.momentum[i] = 0.0
        if is_new or is_dropped:
            layer.weight[i] = 0.0
        layer.mask[i] = i in kept or i in grown


def step(layer: Layer, gradient: list[float], settings: Settings) -> None:
    """Take a step of gradient descent with momentum; inactive weights have no gradient."""
    for i in range(len(layer.mask)):
        own = gradient[i] if layer.mask[i] else 0.0
        layer.momentum[i] = layer.momentum[i] * settings.momentum + own
        if layer.mask[i]:
            layer.weight[i] += -settings.lr * layer.momentum[i]
