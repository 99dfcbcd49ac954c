"""Top-KAST, slow and obvious: loops over single weights, sets of indices, numbers of Python.

Written from Jayakumar et al. 2021 (arXiv 2106.03517, section 2) and from the project's definition of what the paper
leaves open (exact counts, ties), not from the package. Nothing of the package is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

# Values of each layer's weights, in row-major order, by the layer's name.
Values = dict[str, list[float]]


@dataclass(frozen=True)
class Options:
    """What a run depends on besides its weights and data.

    Attributes:
        density: Fraction of all weights in the forward sets.
        extra: Fraction of each layer's weights in the backward set and not in the forward set.
        every: Number of steps between choices of the sets.
        coefficient: Coefficient of the exploration penalty.
        power: Exponent of the penalty.
        lr: Learning rate of gradient descent.
        momentum: Its momentum.
    """

    density: float
    extra: float
    every: int
    coefficient: float
    power: float
    lr: float
    momentum: float


@dataclass(frozen=True)
class Moment:
    """A run after a step.

    Attributes:
        theta: Values of all weights.
        forward: Forward set of each layer.
        backward: Backward set of each layer.
    """

    theta: Values
    forward: dict[str, set[int]]
    backward: dict[str, set[int]]

    def weights(self) -> Values:
        """Return the weights that compute: theta in the forward set and zero elsewhere."""
        return {name: alpha(values, self.forward[name]) for name, values in self.theta.items()}


def slow_top_kast(
    initial: Values, steps: int, gradients: Callable[[int, Values], Mapping[str, Sequence[float]]], options: Options
) -> list[Moment]:
    """Return the run after each step, the start first.

    Args:
        initial: Weights of a dense network.
        steps: Number of steps.
        gradients: Function of the step and the weights that compute: returns the gradient of the loss with respect to
            each of these, the ones that are zero included.
        options: Hyperparameters.
    """
    theta = {name: list(values) for name, values in initial.items()}
    velocity = {name: [0.0] * len(values) for name, values in initial.items()}
    counts = forward_counts({name: len(values) for name, values in initial.items()}, options.density)
    forward, backward = choose(theta, counts, options.extra)
    moments = [Moment({name: list(values) for name, values in theta.items()}, forward, backward)]
    for step in range(steps):
        found = gradients(step, {name: alpha(values, forward[name]) for name, values in theta.items()})
        for name, values in theta.items():
            density = len(forward[name]) / len(values)
            for i in range(len(values)):
                gradient = 0.0
                if i in backward[name]:
                    gradient = found[name][i]
                    slope = penalty_slope(values[i], options.power)
                    gradient += options.coefficient * (slope if i in forward[name] else slope / density)
                velocity[name][i] = options.momentum * velocity[name][i] + gradient
                if i in backward[name]:
                    values[i] -= options.lr * velocity[name][i]
        if (step + 1) % options.every == 0:
            forward, backward = choose(theta, counts, options.extra)
        moments.append(Moment({name: list(values) for name, values in theta.items()}, forward, backward))
    return moments


def alpha(values: Sequence[float], forward: set[int]) -> list[float]:
    """Return the weights of a layer that compute."""
    return [value if i in forward else 0.0 for i, value in enumerate(values)]


def penalty_slope(value: float, power: float) -> float:
    """Return the derivative of |value|**power."""
    if value == 0:
        return 0.0
    return float(power * abs(value) ** (power - 1) * (1 if value > 0 else -1))


def forward_counts(sizes: Mapping[str, int], density: float) -> dict[str, int]:
    """Return the size of each forward set: shares of the whole budget, rounded down, then the largest remainders."""
    total, whole = round(density * sum(sizes.values())), sum(sizes.values())
    quotas = {name: Fraction(total * size, whole) for name, size in sizes.items()}
    counts = {name: floor(quota) for name, quota in quotas.items()}
    order = sorted(sizes, key=lambda name: counts[name] - quotas[name])  # stable: ties to the first layer
    for name in order[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def choose(
    theta: Mapping[str, Sequence[float]], counts: Mapping[str, int], extra: float
) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """Return the forward and the backward set of each layer: the largest |theta|, of equal ones the first."""
    forward, backward = {}, {}
    for name, values in theta.items():
        ranking = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
        wider = min(len(values), round(counts[name] + extra * len(values)))
        forward[name], backward[name] = set(ranking[: counts[name]]), set(ranking[:wider])
    return forward, backward
