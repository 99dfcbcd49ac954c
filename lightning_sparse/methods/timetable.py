"""When a network changes: periods in epochs or optimizer steps, the length of a run, prune rates and densities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf
from typing import NamedTuple, Protocol

from lightning_sparse.methods.counters import Counters
from lightning_sparse.network.budget import Density
from lightning_sparse.topology.schedule import PruneRate
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

    @classmethod
    def with_default(cls, every_n_epochs: int | None, every_n_steps: int | None) -> Cadence:
        """Return the cadence of two optional periods: one after every epoch if neither is given."""
        return cls(1) if every_n_epochs is None and every_n_steps is None else cls(every_n_epochs, every_n_steps)

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

    @property
    def period(self) -> int:
        """Number of epochs or steps between boundaries."""
        return self.every_n_epochs or self.every_n_steps or 1

    def is_due(self, count: int) -> bool:
        """Tell whether a number of completed epochs (or steps, whichever the period is in) is a boundary."""
        return count % self.period == 0

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
        return max(0, (int(end) - 1) // self.period - start // self.period)


class Densities(Protocol):
    """Densities that change over a run.

    Attributes:
        is_settled: Whether the densities of a fit were compared with those that its network has.
    """

    is_settled: bool

    def plan(self, length: RunLength) -> None:
        """Find out where changes begin and end in a run of this length."""

    def sentences(self, length: RunLength) -> Iterator[str]:
        """Yield what is planned."""

    def complaints(self, length: RunLength) -> Iterator[str]:
        """Yield warnings of what is hardly meant."""

    def at(self, position: Position) -> Density:
        """Return the densities from a position on."""

    def onward(self, density: Density, current: Mapping[str, float]) -> Density:
        """Return densities that don't go back from where a network is already."""

    def have_changed(self, last: Position, now: Position) -> bool:
        """Tell whether they are others than at an earlier position."""

    def next_change(self, last: Position, counts_epochs: bool) -> int:
        """Return the number of epochs (or steps) before which they stay, if that is known; else 0."""

    @property
    def are_of_groups(self) -> bool:
        """Whether each group of layers has its own, which updates at other times keep, too."""


class Due(NamedTuple):
    """What an update does.

    Attributes:
        prune_rate: Fraction in [0, 1] of the active weights that it prunes and regrows.
        density: Density that it reaches; None keeps the number of active weights.
        moves: Whether weights move. If not, there is nothing to do for a network that has the density.
    """

    prune_rate: float
    density: Density | None
    moves: bool = True


@dataclass
class Timetable:
    """When a network changes, and by how much: weights that move, and densities that change.

    Both have periods of their own; what is due at the same time is one update.

    Attributes:
        cadence: Period of updates that move weights.
        rate: Prune rate of those.
        densities: Densities that change; None if none does.
        moves: Whether updates move weights at all.
        total: Number of updates of the run that move weights; infinity until it is known.
    """

    cadence: Cadence
    rate: PruneRate
    densities: Densities | None = None
    moves: bool = True
    total: float = inf

    def next_boundary(self, last: Position) -> int:
        """Return the number of epochs (or steps, whichever the cadence counts) before which nothing is due."""
        boundary, densities = self.cadence.next_boundary(last), self.densities
        return boundary if densities is None else min(boundary, densities.next_change(last, self.cadence.counts_epochs))

    def due(self, now: Position, counters: Counters) -> Due | None:
        """Return what is due at a position, or None.

        Args:
            now: The position.
            counters: Start of sparse training, and the updates since.
        """
        last, densities, density = counters.last, self.densities, None
        moves = now[self.cadence.every_n_steps is not None] >= self.cadence.next_boundary(last)
        if densities is not None:
            moves = moves and self.moves
            is_open = not densities.is_settled and now[1] > last[1]
            if is_open or densities.have_changed(last, now) or (moves and densities.are_of_groups):
                density = densities.at(now)
        if not moves and density is None:
            return None
        number = len(counters.history) if densities is None else sum(self.moved(counters))
        return Due(self.rate.at(number, self.total) if moves else 0.0, density, moves)

    def moved(self, counters: Counters) -> list[bool]:
        """Tell of each update whether it moved weights."""
        if self.densities is None:
            return [True] * len(counters.history)
        axis = 0 if self.cadence.counts_epochs else 1
        pairs = pairwise([counters.first, *((record.epoch, record.step) for record in counters.history)])
        return [self.moves and position[axis] >= self.cadence.next_boundary(before) for before, position in pairs]
