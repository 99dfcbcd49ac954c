"""Prune rates over a run: an initial rate, times a factor that depends on progress.

Progress runs from 0 at the first topology update to 1 at the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, inf, nan, pi
from numbers import Real

from lightning_sparse.topology.registry import resolve
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import short_text

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


class PruneRate:
    """A prune rate that follows a schedule.

    Args:
        initial: Fraction in [0, 1] of each layer's active weights.
        schedule: A name, the import path of a function, or a function of progress in [0, 1] that returns a factor in
            [0, 1].

    Raises:
        ValueError: If either is out of range or unknown.
    """

    def __init__(self, initial: float, schedule: str | Callable[[float], float]) -> None:
        if isinstance(initial, bool) or not isinstance(initial, Real) or not 0 <= initial <= 1:
            raise InvalidValueError(
                expected="a prune rate in [0, 1], a fraction of each layer's active weights",
                got=repr(initial),
                cure="the paper's is 0.5",
            )
        self.initial: float = float(initial)
        self._schedule: Schedule = resolve("schedule", schedule, SCHEDULES)
        for update in (0, 1):  # the first of two and the last: a wrong schedule is wrong there, most likely
            self.at(update, total=2)

    def __repr__(self) -> str:
        return f"{self.initial} ({short_text(self._schedule)})"

    @property
    def is_constant(self) -> bool:
        """Whether it is known to be the same at all updates."""
        return self._schedule is SCHEDULES["constant"]

    def at(self, update: int, total: float) -> float:
        """Return the fraction of each layer's active weights that an update prunes, in [0, 1].

        Args:
            update: Number of the update, from 0 on. Progress is 0 at the first one and 1 at the last.
            total: Number of updates of the run; infinity if it is unknown, and progress then stays 0.

        Raises:
            ValueError: If the schedule returns no factor.

        >>> [PruneRate(0.5, "linear").at(update, total=3) for update in range(3)]
        [0.5, 0.25, 0.0]
        """
        progress = min(1.0, update / (total - 1)) if 1 < total < inf else 0.0
        returned = self._schedule(progress)
        try:
            factor = float(returned)
        except (TypeError, ValueError):
            factor = nan
        if not 0 <= factor <= 1:
            raise InvalidValueError(
                expected=f"a factor in [0, 1] on the prune rate from the schedule at progress {progress:.3g}",
                got=repr(returned),
                cure="return 1 for the whole prune rate, 0 for none",
            )
        return self.initial * factor
