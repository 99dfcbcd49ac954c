"""When topology updates are due, how far along they are, and how large a part of the active weights they prune."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from numbers import Real

from lightning_sparse.callbacks.cadence import Cadence
from lightning_sparse.topology.registry import resolve
from lightning_sparse.topology.schedule import SCHEDULES, Schedule
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import short_text


def update_cadence(every_n_epochs: int | None, every_n_steps: int | None) -> Cadence:
    """Return the cadence of updates: after every epoch if no period is given.

    Raises:
        ValueError: If a period is not a positive integer, or both are given.
    """
    return Cadence(1) if every_n_epochs is None and every_n_steps is None else Cadence(every_n_epochs, every_n_steps)


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
        for progress in (0.0, 1.0):  # the first update and the last: a wrong schedule is wrong there, most likely
            self.at(progress)

    def __repr__(self) -> str:
        return f"{self.initial} ({short_text(self._schedule)})"

    @property
    def is_constant(self) -> bool:
        """Whether it is known to be the same at all updates."""
        return self._schedule is SCHEDULES["constant"]

    def at(self, progress: float) -> float:
        """Return the fraction to prune, from 0 at the first update to 1 at the last.

        Raises:
            ValueError: If the schedule returns no factor.
        """
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


def progress(update: int, total: float) -> float:
    """Return how far along an update is: 0 for the first of `total` updates, 1 for the last.

    >>> [progress(update, total=3) for update in range(3)]
    [0.0, 0.5, 1.0]
    """
    return min(1.0, update / (total - 1)) if 1 < total < inf else 0.0
