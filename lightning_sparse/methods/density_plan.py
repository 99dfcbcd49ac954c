"""The densities of a run, of all layers or of each group of layers, as far as they change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from typing import NamedTuple

from lightning_sparse.methods.density_schedule import DensitySchedule
from lightning_sparse.methods.timetable import Position, RunLength
from lightning_sparse.network.budget import Density
from lightning_sparse.validation.errors import InvalidValueError

# A density that stays or changes, or one for each pattern of layers.
ScheduledDensity = float | DensitySchedule | Mapping[str, float | DensitySchedule]


class _Span(NamedTuple):
    """Where the changes of a schedule begin and end, in epochs or steps; at the end, density is the final one."""

    begin: float
    end: float


class DensityPlan:
    """Densities that change over a run.

    Args:
        density: Schedule of all layers, or by pattern of the layers of each group, where some densities may stay.
    """

    def __init__(self, density: ScheduledDensity) -> None:
        self._density = density
        self.are_of_groups = isinstance(density, Mapping)
        groups = dict(density) if isinstance(density, Mapping) else {"": density}
        self._schedules = {key: each for key, each in groups.items() if isinstance(each, DensitySchedule)}
        self._constant = {key: each for key, each in groups.items() if not isinstance(each, DensitySchedule)}
        self._order = [*groups]
        self._spans: dict[str, _Span] = {}
        # Whether the densities of a fit were compared with those that its network has.
        self.is_settled = False
        # Whether a run of the planned length reaches the final densities.
        self.is_completed = True

    @property
    def initial(self) -> Density:
        """Densities of the masks that a network begins with."""
        return self._joined({key: schedule.initial for key, schedule in self._schedules.items()})

    @property
    def final(self) -> Density:
        """Densities at the end of all changes."""
        return self._joined({key: schedule.final for key, schedule in self._schedules.items()})

    def _joined(self, densities: Mapping[str, float]) -> Density:
        found = {**self._constant, **densities}
        return {key: found[key] for key in self._order} if self.are_of_groups else found[""]

    def plan(self, length: RunLength) -> None:
        """Find out where changes begin and end.

        Args:
            length: Length of the run, from its very beginning.

        Raises:
            ValueError: If a schedule follows the length of a run that has none.
        """
        self._spans = {key: _span(schedule, length) for key, schedule in self._schedules.items()}
        self.is_completed = not any(self.complaints(length))
        self.is_settled = False  # the run may have begun late, or have another length than when it was saved

    def at(self, position: Position) -> Density:
        """Return the densities from a position on, after `plan`."""
        return self._joined(
            {
                key: schedule.at(_progress(schedule, self._spans[key], position))
                for key, schedule in self._schedules.items()
            }
        )

    def onward(self, density: Density, current: Mapping[str, float]) -> Density:
        """Return densities of this plan, but none that goes back from where the network is already.

        A network that is trained again begins with the masks that it has.

        Args:
            density: Densities that are due.
            current: Density of the network, by pattern that of each group; "" stands for all layers.
        """
        due = density if isinstance(density, Mapping) else {"": density}
        bounded = {
            key: (min if schedule.final <= schedule.initial else max)(due[key], current[key])
            for key, schedule in self._schedules.items()
        }
        return {key: bounded.get(key, current[key]) for key in self._order} if self.are_of_groups else bounded[""]

    def have_changed(self, last: Position, now: Position) -> bool:
        """Tell whether the densities are others than at an earlier position."""
        return self.at(last) != self.at(now)

    def next_change(self, last: Position, counts_epochs: bool) -> int:
        """Return the number of epochs (or steps) before which the densities stay; 0 if one counts the other."""
        if not self.is_settled:
            return 0
        boundaries = [
            schedule.cadence.next_boundary(last) if schedule.cadence.counts_epochs == counts_epochs else 0
            for schedule in self._schedules.values()
        ]
        return min(boundaries)

    def sentences(self, length: RunLength) -> Iterator[str]:
        """Yield a sentence for each schedule: from which density to which, when."""
        for key, schedule in self._schedules.items():
            unit = "epoch" if schedule.cadence.counts_epochs else "step"
            period, span = schedule.cadence.period, self._spans[key]
            every = unit if period == 1 else f"{period:,} {unit}s"
            last = _last_boundary(schedule, length)
            until = "" if span.end == inf else f", from {unit} {_first_change(period, span.begin):,} to {span.end:,}"
            if last < _first_change(period, span.begin):
                until = f", but the run ends with {unit} {_length(schedule, length):,}"
            of = f" of {key}" if key else ""
            yield (
                f"Planned density{of}: {schedule.initial:.4g} to {schedule.final:.4g}, one change after every {every}"
                f"{until}."
            )

    def complaints(self, length: RunLength) -> Iterator[str]:
        """Yield a warning for each schedule that doesn't reach its final density in the run."""
        for key, schedule in self._schedules.items():
            unit, end = ("epoch" if schedule.cadence.counts_epochs else "step"), self._spans[key].end
            last = _last_boundary(schedule, length)
            if schedule.initial != schedule.final and (last < end or last == 0):
                of = f" of {key}" if key else ""
                yield (
                    f"Expected a run that reaches the final density{of}, {schedule.final:.4g}; got one that ends with "
                    f"{unit} {_length(schedule, length):,}, before the last change. Cure: a longer run, a shorter "
                    "period, or an earlier end of the schedule."
                )


def _length(schedule: DensitySchedule, length: RunLength) -> float:
    found = length.in_epochs() if schedule.cadence.counts_epochs else length.in_steps()
    return found if found == inf else int(found)


def _last_boundary(schedule: DensitySchedule, length: RunLength) -> float:
    """Return the last boundary of a run that is followed by a batch; infinity if it is unknown."""
    period, found = schedule.cadence.period, _length(schedule, length)
    return inf if found == inf else max(0, (int(found) - 1) // period * period)


def _first_change(period: int, begin: float) -> int:
    return int(begin // period + 1) * period


def _span(schedule: DensitySchedule, length: RunLength) -> _Span:
    whole, period = _length(schedule, length), schedule.cadence.period
    positions = []
    for position in (schedule.begin, schedule.end):
        if isinstance(position, float) and position and whole == inf:
            raise InvalidValueError(
                expected="a run of known length for a density that follows it",
                got="one that may last forever",
                cure="set max_epochs or max_steps, or give begin and end of the schedule as integers",
            )
        positions.append(position * whole if isinstance(position, float) and position else position)
    begin, end = positions
    end = end // period * period
    if isinstance(schedule.end, float):  # of a run that ends at a boundary, that one is followed by no batch
        end = min(end, _last_boundary(schedule, length))
    return _Span(begin, int(end))


def _progress(schedule: DensitySchedule, span: _Span, position: Position) -> float:
    """Return which part of the changes is done from a position on."""
    period = schedule.cadence.period
    count = position[0 if schedule.cadence.counts_epochs else 1] // period * period
    if count >= max(span.end, 1):  # in a run without boundaries, the end is at 0
        return 1.0
    return max(0.0, (count - span.begin) / (span.end - span.begin)) if span.begin < span.end else 0.0
