"""Effective gradient flow as the definition reads, number by number.

Tessera, Hooker & Rosman (2021): mask each layer's gradient, take the norm of each layer, then the mean over the layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def norm(values: Sequence[float], p: float) -> float:
    """Return the p-norm of some numbers."""
    if math.isinf(p):
        return max((abs(value) for value in values), default=0.0)
    return sum(abs(value) ** p for value in values) ** (1 / p)


def slow_effective_gradient_flow(
    gradients: Sequence[Array | None], masks: Sequence[Array | None], p: float, *, per_active: bool = False
) -> float:
    """Return EGF_p; a gradient of None doesn't reach its layer, a mask of None is that of a dense layer."""
    total = 0.0
    for gradient, mask in zip(gradients, masks, strict=True):
        if gradient is None:
            continue
        values = gradient.reshape(-1).tolist()
        kept = [1] * len(values) if mask is None else mask.reshape(-1).tolist()
        active = [value for value, keep in zip(values, kept, strict=True) if keep]
        layer = norm(active, p)
        if per_active:
            layer = layer / len(active) if active else 0.0
        total += layer
    return total / len(gradients)


def slow_gradient_norm(gradients: Sequence[Array | None], p: float) -> float:
    """Return the p-norm of all gradients in one vector."""
    return norm([value for gradient in gradients if gradient is not None for value in gradient.reshape(-1).tolist()], p)
