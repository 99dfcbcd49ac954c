"""The updates that a run will have, known before it trains: a sentence on them, warnings of what is hardly meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, isclose
from typing import NamedTuple

from lightning_sparse.methods.counters import Counters
from lightning_sparse.methods.timetable import Cadence, Position, RunLength, Timetable
from lightning_sparse.topology.schedule import PruneRate

# Steps between updates that are too few to decide by.
_FEW_STEPS = 2


@dataclass(frozen=True)
class PlannedUpdates:
    """The topology updates of a run, as far as they are known when it starts.

    Attributes:
        cadence: Period of updates.
        length: Length of the run.
        first: Position at which sparse training began.
        rate: Prune rate and its schedule.
        done: Prune rates of the updates before this fit, from which it resumes.
        moves: Whether the recipe moves weights at all.
    """

    cadence: Cadence
    length: RunLength
    first: Position
    rate: PruneRate
    done: tuple[float, ...] = ()
    moves: bool = True

    @property
    def total(self) -> float:
        """Number of updates, those done included; infinity if it is unknown."""
        return self.cadence.boundaries(self.length, self.first)

    def rate_of(self, update: int) -> float:
        """Return the prune rate of an update, counted from 0."""
        return self.rate.at(update, self.total)

    def sentence(self) -> str:
        """Return how many updates are planned, when, and with which prune rates."""
        if not self.moves:
            return "Planned topology updates: none, as the recipe moves no weights."
        if self.rate.initial == 0:
            return "Planned topology updates: none, as the prune rate is 0."
        if self.total == 0:
            return f"Planned topology updates: none, as the run ends with {self._unit} {self._end:,}."
        number = "" if self.total == inf else f"{int(self.total):,}, "
        done = f"; done are {len(self.done):,}" if self.done else ""
        return f"Planned topology updates: {number}{self._when()}; prune rate {self._rates()}{done}."

    def _when(self) -> str:
        first, every = self._due(0), f"one after every {self._period}"
        if self.total == inf:
            return f"{every}, first after {self._unit} {first:,}, for as long as the run lasts"
        if self.total == 1:
            return f"after {self._unit} {first:,}"
        return f"{every}, from {self._unit} {first:,} to {self._due(int(self.total) - 1):,}"

    def _rates(self) -> str:
        """Return the prune rate of the next update, and that of the last one if it is another."""
        last = len(self.done) if self.total == inf else int(self.total) - 1
        rates = [f"{self.rate_of(update):.3g}" for update in (min(len(self.done), last), last)]
        return " to ".join(dict.fromkeys(rates))

    def _due(self, update: int) -> int:
        """Return the number of epochs or steps after which an update is due."""
        return self.cadence.next_boundary(self.first) + update * self._count

    @property
    def _count(self) -> int:
        return self.cadence.period

    @property
    def _unit(self) -> str:
        return "epoch" if self.cadence.counts_epochs else "step"

    @property
    def _period(self) -> str:
        return self._unit if self._count == 1 else f"{self._count:,} {self._unit}s"

    @property
    def _end(self) -> int:
        return int(self.length.in_epochs() if self.cadence.counts_epochs else self.length.in_steps())

    def complaints(self) -> Iterator[str]:
        """Yield a warning for each thing that is hardly meant; none where no weights are to move."""
        if not self.moves or self.rate.initial == 0:
            return
        if self.total == 0:
            yield (
                f"Expected at least one topology update; got none in a run that ends with {self._unit} {self._end:,}, "
                f"with one after every {self._period} but not at the very end: the masks stay as they are. Cure: a "
                "longer run, a shorter period (every_n_epochs, every_n_steps), or, if fixed masks are meant, "
                "SparseTrainingCallback(recipe='static')."
            )
            return
        steps = self.length.steps_per_epoch * self._count
        if self.cadence.counts_epochs and steps <= _FEW_STEPS:
            yield (
                f"Expected more optimizer steps between topology updates, to learn which weights matter; got {steps:g}"
                f", as an epoch has {self.length.steps_per_epoch:g}. Cure: every_n_steps=100, say, or a larger "
                "every_n_epochs."
            )
        if self.rate.initial == 1 and self.rate_of(len(self.done)) == 1:
            yield (
                "Expected a prune rate below 1, so that some weights of each layer survive an update; got 1: the next "
                "update replaces all active weights. Cure: prune_rate=0.5, as in the paper."
            )
        if self._jumps_back():
            yield (
                f"Expected a prune rate that decays over the whole run; got {self.done[-1]:.3g} at the last update and "
                f"{self.rate_of(len(self.done)):.3g} at the next: the run is longer now than when it began, and the "
                "schedule follows its length. Cure: give max_epochs (or max_steps) of the whole run from its start, or "
                "resume with schedule='constant' and a small prune_rate."
            )

    def _jumps_back(self) -> bool:
        """Tell whether the next prune rate is higher than the last one because the run was extended."""
        update = len(self.done)
        if not update or self.rate.is_constant or update >= self.total:
            return False
        as_begun = isclose(self.done[0], self.rate_of(0), abs_tol=1e-9)  # else other rates are a wish
        as_planned = isclose(self.done[-1], self.rate_of(update - 1), abs_tol=1e-9)
        return as_begun and not as_planned and self.rate_of(update) > self.done[-1] + 1e-9


class PlanOfRun(NamedTuple):
    """What is known of a run's updates when it starts.

    Attributes:
        sentences: Sentences on the updates that are planned.
        complaints: Warnings of what is hardly meant.
    """

    sentences: list[str]
    complaints: list[str]


def plan_timetable(timetable: Timetable, length: RunLength, counters: Counters) -> PlanOfRun:
    """Tell a timetable how long the run is, and return what can be said of its updates then.

    Args:
        timetable: Timetable of the run.
        length: Length of the run, from its very beginning.
        counters: Start of sparse training, and the updates since.

    Raises:
        ValueError: If a density follows the length of a run that has none.
    """
    densities = timetable.densities
    if densities is not None:
        densities.plan(length)
    moved = zip(counters.history, timetable.moved(counters), strict=True)
    done = tuple(record.prune_rate for record, has_moved in moved if has_moved)
    plan = PlannedUpdates(timetable.cadence, length, counters.first, timetable.rate, done, timetable.moves)
    timetable.total = plan.total
    sentences, complaints = [plan.sentence()], [*plan.complaints()]
    if densities is not None:
        sentences = [*(sentences if timetable.moves else []), *densities.sentences(length)]
        complaints += densities.complaints(length)
    return PlanOfRun(sentences, complaints)
