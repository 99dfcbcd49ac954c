"""The hard concrete distribution of gates in [0, 1], which are exactly 0 or 1 with some probability; and such gates.

Louizos, Welling & Kingma 2018, *Learning Sparse Neural Networks through L0 Regularization* (arXiv 1712.01312),
section 2.2, equations 10 to 13. A uniform number is turned into a concrete one in (0, 1), stretched to (LOW, HIGH) and
clamped to [0, 1]. The larger log alpha, the likelier is a gate to be open.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn

# Ends of the stretched interval, gamma and zeta in the paper, and the temperature beta: the paper's, section 4.
LOW, HIGH = -0.1, 1.1
TEMPERATURE = 2 / 3
# Range of the uniform numbers, so that their logits are finite, and of log alpha, so that its gradient doesn't vanish:
# the authors' code.
EPSILON = 1e-6
LEAST_LOG_ALPHA, MOST_LOG_ALPHA = log(1e-2), log(1e2)
# Standard deviation of the initial log alpha, as in the authors' code.
SPREAD = 0.01


def hard_concrete_sample(log_alpha: Tensor, uniform: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return gates in [0, 1] for uniform numbers, through which gradients reach log alpha (equations 10 and 11).

    Args:
        log_alpha: Locations, any shape.
        uniform: Numbers from `draw_uniform`, same shape.
        temperature: Temperature > 0; the lower, the more gates are 0 or 1.

    >>> hard_concrete_sample(torch.zeros(3), torch.tensor([0.1, 0.5, 0.9]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    concrete = torch.sigmoid((torch.log(uniform) - torch.log1p(-uniform) + log_alpha) / temperature)
    return (concrete * (HIGH - LOW) + LOW).clamp(0, 1)


def hard_concrete_test(log_alpha: Tensor) -> Tensor:
    """Return the gates of evaluation, in [0, 1], same shape, which don't depend on chance (equation 13).

    >>> hard_concrete_test(torch.tensor([-3.0, 0.0, 3.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    return (torch.sigmoid(log_alpha) * (HIGH - LOW) + LOW).clamp(0, 1)


def probability_active(log_alpha: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return the probability in (0, 1) that a sampled gate isn't zero, same shape (equation 12).

    >>> probability_active(torch.zeros(1))
    tensor([0.8318])
    """
    return torch.sigmoid(log_alpha - temperature * log(-LOW / HIGH))


def draw_uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return uniform random numbers in (1e-6, 1 - 1e-6), float32, on the CPU.

    Args:
        shape: Shape of the result.
        generator: Generator of the CPU.
    """
    return torch.empty(tuple(shape), dtype=torch.float32).uniform_(EPSILON, 1 - EPSILON, generator=generator)


def draw_log_alpha(shape: Sequence[int], drop_rate: float, generator: torch.Generator) -> Tensor:
    """Return initial locations, normally distributed around `log((1 - p) / p)`, float32, on the CPU.

    Args:
        shape: Shape of the result.
        drop_rate: Rate p in (0, 1): the gates of evaluation are about 1 - p before they are stretched.
        generator: Generator of the CPU.
    """
    mean = log((1 - drop_rate) / drop_rate)
    return torch.empty(tuple(shape), dtype=torch.float32).normal_(mean, SPREAD, generator=generator)


class Gate:
    """The gates of all weights of one parameter.

    Args:
        weight: The parameter.
        temperature: Temperature of the distribution.

    Attributes:
        log_alpha: Locations, shape and device of the parameter, in single precision or, as the parameter, in double:
            uniform numbers close to 1 don't exist in half precision.
        seed: Seed of the uniform numbers of the present step.
    """

    def __init__(self, weight: Tensor, temperature: float) -> None:
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.log_alpha = nn.Parameter(torch.zeros(weight.shape, dtype=dtype, device=weight.device))
        self.seed = 0
        self._uniform = torch.full_like(self.log_alpha, 0.5, requires_grad=False)
        self._temperature = temperature

    def draw(self, seed: int) -> None:
        """Draw the uniform numbers of a step."""
        self.seed = seed
        uniform = draw_uniform(self.log_alpha.shape, torch.Generator().manual_seed(seed))
        self._uniform = uniform.to(self.log_alpha.device, self.log_alpha.dtype, non_blocking=True)

    def values(self, *, training: bool) -> Tensor:
        """Return the gates in [0, 1]: those of the present step in training, else those of evaluation."""
        if training:
            return hard_concrete_sample(self.log_alpha, self._uniform, self._temperature)
        return hard_concrete_test(self.log_alpha)

    def probability(self) -> Tensor:
        """Return the probability that a gate isn't closed in training, for each."""
        return probability_active(self.log_alpha, self._temperature)

    def gated(self, weight: Tensor, *, training: bool) -> Tensor:
        """Return the weight times its gates, in its dtype and on its device."""
        return weight * self.values(training=training).to(weight.device, weight.dtype)
