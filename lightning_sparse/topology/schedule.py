"""Prune-rate schedules: the factor on the initial prune rate as a function of training progress.

Progress runs from 0 at the first topology update to 1 at the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """Return 1."""
    return 1.0


def linear(progress: float) -> float:
    """Return `1 - progress`."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Return half a cosine from 1 to 0, the paper's choice (Dettmers & Zettlemoyer 2019, section 3.2).

    >>> cosine(0.0), round(cosine(0.5), 9), cosine(1.0)
    (1.0, 0.5, 0.0)
    """
    return 0.5 * (1.0 + cos(pi * progress))


SCHEDULES: dict[str, Schedule] = {"constant": constant, "linear": linear, "cosine": cosine}
