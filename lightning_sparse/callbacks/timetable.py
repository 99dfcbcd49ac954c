"""When topology updates are due and how far along they are: arithmetic on counters."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf


@dataclass(frozen=True)
class Timetable:
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
            raise ValueError(
                f"Expected a period in epochs or in steps; got every_n_epochs={self.every_n_epochs}, "
                f"every_n_steps={self.every_n_steps}. Cure: give exactly one of them."
            )
        period = self._period
        if isinstance(period, bool) or not isinstance(period, int) or period < 1:
            raise ValueError(f"Expected an update period of at least 1 epoch or step, an integer; got {period!r}.")

    @property
    def _period(self) -> int:
        return self.every_n_epochs or self.every_n_steps or 0

    def is_due(self, epoch: int, step: int, last_epoch: int, last_step: int) -> bool:
        """Tell whether a boundary lies between the last update and now (completed epochs and optimizer steps)."""
        now, last = (epoch, last_epoch) if self.every_n_epochs else (step, last_step)
        return now // self._period > last // self._period

    def total_updates(self, steps: float, steps_per_epoch: float, epochs: float) -> float:
        """Return the number of updates of a whole run, infinity if its length is unknown.

        Args:
            steps: Optimizer steps of the run, or infinity.
            steps_per_epoch: Optimizer steps of an epoch, or infinity.
            epochs: Most epochs of the run, or infinity.
        """
        if self.every_n_steps:
            length = steps
        elif steps < inf and steps_per_epoch < inf:
            length = min(epochs, ceil(steps / steps_per_epoch))
        else:
            length = epochs if steps == inf else inf
        return length if length == inf else max(0, (int(length) - 1) // self._period)


def progress(update: int, total: float) -> float:
    """Return how far along an update is: 0 for the first of `total` updates, 1 for the last.

    >>> [progress(update, total=3) for update in range(3)]
    [0.0, 0.5, 1.0]
    """
    return min(1.0, update / (total - 1)) if 1 < total < inf else 0.0
