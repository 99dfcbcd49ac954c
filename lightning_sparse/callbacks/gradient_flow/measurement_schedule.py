"""When to measure: at optimizer steps, at ends of epochs, or at some epochs spread over the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from lightning_sparse._compat import Trainer
from lightning_sparse.callbacks.cadence import run_length
from lightning_sparse.methods.timetable import Cadence
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import check_integer


def evenly_spread(epochs: int, count: int) -> list[int]:
    """Return numbers of epochs spread evenly over a run, first and last included; all epochs if there are no more.

    Args:
        epochs: Number of epochs in the run; they are numbered from 0 on.
        count: Number of epochs to return, >= 1; a single one is the last.

    >>> evenly_spread(1000, 11)
    [0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999]
    """
    if count == 1:
        return [epochs - 1]
    return sorted({round(index * (epochs - 1) / (count - 1)) for index in range(count)})


@dataclass
class MeasurementSchedule:
    """Steps or epochs to measure at, given in one of three ways; every epoch if in none.

    Attributes:
        every_n_steps: Period in optimizer steps.
        every_n_epochs: Period in epochs.
        spread_over_epochs: Number of epochs, spread evenly over the run.

    Raises:
        ValueError: If one is not a positive integer, or several are given.
    """

    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    spread_over_epochs: int | None = None
    _cadence: Cadence | None = field(init=False, repr=False, compare=False)  # None: epochs are spread over the run
    _spread: frozenset[int] = field(default=frozenset(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        options = [self.every_n_steps, self.every_n_epochs, self.spread_over_epochs]
        if sum(number is not None for number in options) > 1:
            raise InvalidValueError(
                expected="one of every_n_steps, every_n_epochs and spread_over_epochs",
                got=options,
                cure="give one, or use two callbacks",
            )
        if self.spread_over_epochs is not None:
            self.spread_over_epochs = check_integer(
                self.spread_over_epochs,
                1,
                expected="a number spread_over_epochs of at least 1, an integer",
                cure="1 measures after the last epoch",
            )
            self._cadence = None
            return
        if self.every_n_steps is None and self.every_n_epochs is None:
            self.every_n_epochs = 1
        self._cadence = Cadence(self.every_n_epochs, self.every_n_steps)

    @property
    def key(self) -> str:
        """Name of the schedule in checkpoints, as version 0 wrote it, whose checkpoints later versions resume."""
        return (
            f"Moments(every_n_steps={self.every_n_steps}, every_n_epochs={self.every_n_epochs}, "
            f"spread_over_epochs={self.spread_over_epochs})"
        )

    def plan(self, trainer: Trainer) -> None:
        """Choose the epochs that are spread over the run, at the start of training.

        Raises:
            ValueError: If they depend on the length of the run, which is unknown.
        """
        if self.spread_over_epochs is None:
            return
        epochs = run_length(trainer, trainer.max_epochs).in_epochs()
        if epochs == inf:
            raise InvalidValueError(
                expected=f"a run of known length to spread {self.spread_over_epochs} epochs over",
                got=f"max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}",
                cure="set max_epochs, or every_n_epochs here",
            )
        self._spread = frozenset(evenly_spread(int(epochs), self.spread_over_epochs))

    def measures_epoch(self, epoch: int) -> bool:
        """Tell whether an epoch is to be measured at its last step.

        Args:
            epoch: Number of the epoch, from 0 on.
        """
        if self._cadence is None:
            return epoch in self._spread
        return self._cadence.counts_epochs and self._cadence.is_due(epoch + 1)
