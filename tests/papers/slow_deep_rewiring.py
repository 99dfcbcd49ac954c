"""Deep rewiring, slow and obvious: loops over single connections, each with its sign and its theta.

Written from Bellec et al. 2018 (arXiv 1711.05136), Algorithm 1, not from the package; nothing of it is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

# What a connection that becomes active starts with.
EPSILON = 1e-12


@dataclass
class Connection:
    """One possible connection of a layer.

    Attributes:
        sign: -1 or 1; never changes.
        theta: Its parameter; <= 0 if it is dormant.
    """

    sign: int
    theta: float

    @property
    def is_active(self) -> bool:
        """Whether it exists."""
        return self.theta > 0

    @property
    def weight(self) -> float:
        """What the network computes with."""
        return self.sign * self.theta if self.is_active else 0.0


@dataclass
class Layer:
    """All possible connections of a layer, and how many of them are active at any time."""

    connections: list[Connection]
    budget: int

    @property
    def weights(self) -> list[float]:
        """The weights in the order of the connections."""
        return [connection.weight for connection in self.connections]

    @property
    def mask(self) -> list[bool]:
        """Which connections are active."""
        return [connection.is_active for connection in self.connections]


def first_layer(weights: Sequence[float], mask: Sequence[bool], random_signs: Sequence[int]) -> Layer:
    """Return a layer with the signs of its active weights, and random ones elsewhere."""
    connections = []
    for weight, is_active, sign in zip(weights, mask, random_signs, strict=True):
        if is_active and weight:
            connections.append(Connection(1 if weight > 0 else -1, abs(weight)))
        elif is_active:
            connections.append(Connection(sign, EPSILON))
        else:
            connections.append(Connection(sign, 0.0))
    return Layer(connections, sum(mask))


def step(
    layers: Sequence[Layer],
    gradients: Sequence[Sequence[float]],
    eta: float,
    alpha: float,
    temperature: float,
    normal: Callable[[int], Sequence[float]],
    uniform: Callable[[int], Sequence[float]],
) -> int:
    """Take one step and return how many connections became dormant.

    Args:
        layers: The layers, which are changed.
        gradients: Derivatives of the loss with respect to the weights, for each layer and connection.
        eta: Learning rate.
        alpha: L1 coefficient.
        temperature: Temperature T.
        normal: Source of standard normal numbers, asked for as many as a layer has active connections.
        uniform: Source of uniform numbers, asked for as many as a layer has connections if there is a choice.
    """
    for layer, derivatives in zip(layers, gradients, strict=True):
        walk(layer, derivatives, eta, alpha, sqrt(2 * eta * temperature), normal)
    return sum(rewire(layer, uniform) for layer in layers)


def walk(
    layer: Layer,
    derivatives: Sequence[float],
    eta: float,
    alpha: float,
    deviation: float,
    normal: Callable[[int], Sequence[float]],
) -> None:
    """Change theta of the active connections: gradient, L1 penalty and noise."""
    active = [i for i in range(len(layer.connections)) if layer.connections[i].is_active]
    noise = normal(len(active))
    for number, i in enumerate(active):
        connection = layer.connections[i]
        by_theta = derivatives[i] * connection.sign  # as w = sign * theta
        connection.theta = connection.theta - eta * by_theta - eta * alpha + deviation * noise[number]


def rewire(layer: Layer, uniform: Callable[[int], Sequence[float]]) -> int:
    """Activate random dormant connections until the number is right; return how many."""
    missing = layer.budget - sum(layer.mask)
    if not missing:
        return 0
    chosen = [i for i in range(len(layer.connections)) if not layer.connections[i].is_active]
    if len(chosen) > missing:  # else there is no choice
        draws = uniform(len(layer.connections))
        chosen = sorted(chosen, key=lambda i: -draws[i])[:missing]
    for i in chosen:
        layer.connections[i].theta = EPSILON
    return missing
