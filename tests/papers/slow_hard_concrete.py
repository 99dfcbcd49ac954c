"""L0 regularization with hard concrete gates, slow and obvious: single numbers of Python, derivatives by hand.

Written from Louizos, Welling & Kingma 2018 (arXiv 1712.01312, equations 10 to 13), with a gate for each weight, not
from the package. Nothing of the package is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1

# Numbers of each layer, in row-major order, by the layer's name.
Values = dict[str, list[float]]


def sigmoid(x: float) -> float:
    """Return the logistic function."""
    return 1 / (1 + exp(-x))


def sampled_gate(log_alpha: float, u: float, beta: float = BETA) -> float:
    """Return the gate that belongs to a uniform number (equations 10 and 11)."""
    s = sigmoid((log(u) - log(1 - u) + log_alpha) / beta)
    return min(1.0, max(0.0, s * (ZETA - GAMMA) + GAMMA))


def sampled_gate_slope(log_alpha: float, u: float, beta: float = BETA) -> float:
    """Return the derivative of that gate by log alpha: none where it is clamped."""
    s = sigmoid((log(u) - log(1 - u) + log_alpha) / beta)
    stretched = s * (ZETA - GAMMA) + GAMMA
    return (ZETA - GAMMA) * s * (1 - s) / beta if 0 < stretched < 1 else 0.0


def gate_in_evaluation(log_alpha: float) -> float:
    """Return the gate that doesn't depend on chance (equation 13)."""
    return min(1.0, max(0.0, sigmoid(log_alpha) * (ZETA - GAMMA) + GAMMA))


def probability_of_being_open(log_alpha: float, beta: float = BETA) -> float:
    """Return the probability that a sampled gate isn't zero (equation 12)."""
    return sigmoid(log_alpha - beta * log(-GAMMA / ZETA))


def counted_probability(log_alpha: float, numbers: int, beta: float = BETA) -> float:
    """Return the part of evenly spread uniform numbers whose gate isn't zero: equation 12 by counting."""
    uniform = ((i + 0.5) / numbers for i in range(numbers))
    return sum(sampled_gate(log_alpha, u, beta) > 0 for u in uniform) / numbers


@dataclass(frozen=True)
class Options:
    """What a run depends on besides its weights, data and random numbers.

    Attributes:
        strength: Price of a weight in the loss summed over all examples.
        examples: Number of examples.
        lr: Learning rate of gradient descent.
        beta: Temperature.
    """

    strength: float
    examples: int
    lr: float
    beta: float = BETA


@dataclass(frozen=True)
class Moment:
    """Weights and locations of gates after a step."""

    weights: Values
    log_alpha: Values


def slow_l0(
    weights: Values,
    log_alpha: Values,
    uniforms: Sequence[Mapping[str, Sequence[float]]],
    gradients: Callable[[int, Values], Mapping[str, Sequence[float]]],
    options: Options,
) -> list[Moment]:
    """Return the run after each step.

    Args:
        weights: Initial weights.
        log_alpha: Initial locations of their gates.
        uniforms: Uniform numbers of each step.
        gradients: Function of the step and the gated weights: returns the gradient of the loss by each of these.
        options: Hyperparameters.
    """
    weights = {name: list(values) for name, values in weights.items()}
    log_alpha = {name: list(values) for name, values in log_alpha.items()}
    moments = []
    for step, uniform in enumerate(uniforms):
        gated = {
            name: [
                w * sampled_gate(a, u, options.beta)
                for w, a, u in zip(values, log_alpha[name], uniform[name], strict=True)
            ]
            for name, values in weights.items()
        }
        found = gradients(step, gated)
        for name, values in weights.items():
            for i, w in enumerate(values):
                a, u, g = log_alpha[name][i], uniform[name][i], found[name][i]
                p = probability_of_being_open(a, options.beta)
                price = options.strength / options.examples * p * (1 - p)
                values[i] = w - options.lr * g * sampled_gate(a, u, options.beta)
                moved = a - options.lr * (g * w * sampled_gate_slope(a, u, options.beta) + price)
                log_alpha[name][i] = min(max(moved, log(0.01)), log(100))
        moments.append(
            Moment(
                {name: list(values) for name, values in weights.items()},
                {name: list(values) for name, values in log_alpha.items()},
            )
        )
    return moments


def finished(moment: Moment) -> tuple[Values, dict[str, list[bool]]]:
    """Return the weights of the sparse network that is left, and which of them are active."""
    gates = {name: [gate_in_evaluation(a) for a in values] for name, values in moment.log_alpha.items()}
    weights = {
        name: [w * z for w, z in zip(values, gates[name], strict=True)] for name, values in moment.weights.items()
    }
    return weights, {name: [z > 0 for z in values] for name, values in gates.items()}
