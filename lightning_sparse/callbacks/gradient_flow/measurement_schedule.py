"""When something is measured: at steps, at ends of epochs, or at some epochs spread over the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from lightning_sparse._compat import Trainer
from lightning_sparse.callbacks.cadence import Cadence, run_length
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import check_integer


def evenly_spread(epochs: int, count: int) -> list[int]:
    """Return numbers of epochs spread evenly over a run, first and last included; all, if there are no more.

    Args:
        epochs: Of the run, numbered from 0 on.
        count: How many, >= 1; of one, it is the last.

    >>> evenly_spread(1000, 11)
    [0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999]
    """
    if count == 1:
        return [epochs - 1]
    return sorted({round(index * (epochs - 1) / (count - 1)) for index in range(count)})


@dataclass
class MeasurementSchedule:
    """When to measure: one of three ways, every epoch if none is given.

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
    _planned: set[int] = field(default_factory=set, repr=False, compare=False)
    _cadence: Cadence | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = [self.every_n_steps, self.every_n_epochs, self.spread_over_epochs]
        if sum(number is not None for number in given) > 1:
            raise InvalidValueError(
                expected="one of every_n_steps, every_n_epochs and spread_over_epochs",
                got=given,
                cure="give one, or use two callbacks",
            )
        if self.spread_over_epochs is not None:
            self.spread_over_epochs = check_integer(
                self.spread_over_epochs,
                1,
                expected="a number spread_over_epochs of at least 1, an integer",
                cure="1 measures after the last epoch",
            )
            return
        if self.every_n_steps is None and self.every_n_epochs is None:
            self.every_n_epochs = 1
        self._cadence = Cadence(self.every_n_epochs, self.every_n_steps)

    @property
    def key(self) -> str:
        """What tells schedules apart in checkpoints; written as version 0 wrote it, which later versions resume."""
        return (
            f"Moments(every_n_steps={self.every_n_steps}, every_n_epochs={self.every_n_epochs}, "
            f"spread_over_epochs={self.spread_over_epochs})"
        )

    def plan(self, trainer: Trainer) -> None:
        """Find out which epochs are meant, at the start of training.

        Raises:
            ValueError: If that depends on the length of the run, which is not known.
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
        self._planned = set(evenly_spread(int(epochs), int(self.spread_over_epochs)))

    def is_step_due(self, steps: int) -> bool:
        """Tell whether to measure at a step, given its number from 1 on."""
        return self._cadence is not None and not self._cadence.counts_epochs and self._cadence.is_due(steps)

    def is_epoch_due(self, epoch: int) -> bool:
        """Tell whether to measure at the end of an epoch, given its number from 0 on."""
        if self._cadence is not None:
            return self._cadence.counts_epochs and self._cadence.is_due(epoch + 1)
        return epoch in self._planned
