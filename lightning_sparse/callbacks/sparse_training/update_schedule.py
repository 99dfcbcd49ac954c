"""When topology updates are due and how far along they are: arithmetic on counters."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from numbers import Integral

from lightning_sparse.validation.errors import InvalidValueError


@dataclass(frozen=True)
class RunLength:
    """How long a run is, as far as it is known; infinity where it is not.

    Attributes:
        max_epochs: Limit in epochs.
        max_steps: Limit in optimizer steps.
        steps_per_epoch: Optimizer steps of an epoch.
    """

    max_epochs: float
    max_steps: float
    steps_per_epoch: float

    def in_epochs(self) -> float:
        """Return the number of epochs, the last of which may be cut short by the limit in steps."""
        if self.max_steps == inf:
            return self.max_epochs
        # How many epochs a number of steps makes is unknown where an epoch's length is.
        return inf if self.steps_per_epoch == inf else min(self.max_epochs, ceil(self.max_steps / self.steps_per_epoch))

    def in_steps(self) -> float:
        """Return the number of optimizer steps."""
        return min(self.max_steps, self.max_epochs * self.steps_per_epoch)


@dataclass(frozen=True)
class UpdateSchedule:
    """An update after every n epochs or after every n optimizer steps, except at the very end of training.

    Attributes:
        every_n_epochs: Period in epochs; None if in steps.
        every_n_steps: Period in optimizer steps; None if in epochs.

    Raises:
        ValueError: If a period is not a positive integer or not exactly one is given.
    """

    every_n_epochs: int | None
    every_n_steps: int | None

    def __post_init__(self) -> None:
        if (self.every_n_epochs is None) == (self.every_n_steps is None):
            raise InvalidValueError(
                expected="a period in epochs or in steps",
                got=f"every_n_epochs={self.every_n_epochs}, every_n_steps={self.every_n_steps}",
                cure="give exactly one of them",
            )
        period = self._period
        if isinstance(period, bool) or not isinstance(period, Integral) or period < 1:
            raise InvalidValueError(
                expected="an update period of at least 1 epoch or step, an integer",
                got=repr(period),
                cure="1 updates after every epoch or step",
            )
        # A frozen dataclass; NumPy's integers, which would show in counters, become Python's.
        object.__setattr__(self, "every_n_epochs" if self.every_n_steps is None else "every_n_steps", int(period))

    @property
    def _period(self) -> int:
        return self.every_n_epochs or self.every_n_steps or 0

    def is_due(self, now: tuple[int, int], last: tuple[int, int]) -> bool:
        """Tell whether a boundary lies between the last update and now (completed epochs and optimizer steps)."""
        counter = 0 if self.every_n_epochs else 1
        return now[counter] // self._period > last[counter] // self._period

    def total_updates(self, length: RunLength, first: tuple[int, int]) -> float:
        """Return the number of updates of a run, infinity if its length is unknown.

        Args:
            length: Of the run, counted from its very beginning.
            first: Completed epochs and optimizer steps at the start of this fit.
        """
        end = length.in_steps() if self.every_n_steps else length.in_epochs()
        start = first[1] if self.every_n_steps else first[0]
        if end == inf:
            return inf
        return max(0, (int(end) - 1) // self._period - start // self._period)


def progress(update: int, total: float) -> float:
    """Return how far along an update is: 0 for the first of `total` updates, 1 for the last.

    >>> [progress(update, total=3) for update in range(3)]
    [0.0, 0.5, 1.0]
    """
    return min(1.0, update / (total - 1)) if 1 < total < inf else 0.0
