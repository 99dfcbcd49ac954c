"""Periods in epochs or optimizer steps, and the length of a run: for updates, measurements and figures alike."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

from lightning_sparse._compat import Trainer
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import check_integer

# Completed epochs and optimizer steps.
Position = tuple[int, int]


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
class Cadence:
    """A boundary after every n epochs or after every n optimizer steps.

    Attributes:
        every_n_epochs: Period in epochs; None if in steps.
        every_n_steps: Period in optimizer steps; None if in epochs.

    Raises:
        ValueError: If a period is not a positive integer, or not exactly one is given.

    >>> Cadence(every_n_steps=10).next_boundary((0, 23))
    30
    """

    every_n_epochs: int | None = None
    every_n_steps: int | None = None

    def __post_init__(self) -> None:
        if (self.every_n_epochs is None) == (self.every_n_steps is None):
            raise InvalidValueError(
                expected="a period in epochs or in steps",
                got=f"every_n_epochs={self.every_n_epochs}, every_n_steps={self.every_n_steps}",
                cure="give exactly one of them",
            )
        for name in ("every_n_epochs", "every_n_steps"):
            period = getattr(self, name)
            if period is not None:
                period = check_integer(
                    period, 1, expected=f"a period {name} of at least 1, an integer", cure="1 means after each of them"
                )
                object.__setattr__(self, name, period)  # a frozen dataclass

    @property
    def counts_epochs(self) -> bool:
        """Whether the period is in epochs."""
        return self.every_n_steps is None

    def is_due(self, count: int) -> bool:
        """Tell whether a number of completed epochs (or steps, whichever the period is in) is a boundary."""
        return count % (self.every_n_epochs or self.every_n_steps or 1) == 0

    def next_boundary(self, last: Position) -> int:
        """Return the number of epochs (or steps) at which the next boundary after a position lies."""
        period, count = (self.every_n_epochs, last[0]) if self.every_n_epochs else (self.every_n_steps or 1, last[1])
        return (count // period + 1) * period

    def boundaries(self, length: RunLength, first: Position) -> float:
        """Return the number of boundaries in a run, the very end of training left out; infinity if it is unknown.

        Args:
            length: Length of the run, counted from its very beginning.
            first: Position at the start of this fit.
        """
        end, start = (length.in_epochs(), first[0]) if self.counts_epochs else (length.in_steps(), first[1])
        if end == inf:
            return inf
        period = self.every_n_epochs or self.every_n_steps or 1
        return max(0, (int(end) - 1) // period - start // period)


def run_length(trainer: Trainer, max_epochs: int | None) -> RunLength:
    """Return how long the Trainer will train, from the very beginning of the run.

    Args:
        trainer: The Trainer, at the start of training.
        max_epochs: Its limit in epochs, as the user gave it.
    """
    batches, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
    return RunLength(
        max_epochs=inf if max_epochs in (None, -1) else float(max_epochs or 0),
        max_steps=inf if trainer.max_steps == -1 else ceil(trainer.max_steps / counted_per_step(trainer)),
        # The last batch of an epoch always steps.
        steps_per_epoch=inf if batches == inf else ceil(batches / accumulated),
    )


def counted_per_step(trainer: Trainer) -> int:
    """Return how often the Trainer counts one step: in manual optimization once for each optimizer."""
    return 1 if trainer.lightning_module.automatic_optimization else max(1, len(trainer.optimizers))
