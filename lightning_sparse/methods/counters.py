"""How far a run is: what sparse training counts, saves and restores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lightning_sparse.methods.history import UpdateRecord, is_count
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.validation.errors import InvalidValueError


@dataclass
class Counters:
    """Positions in a run, each as completed epochs and optimizer steps, and what was done there.

    Attributes:
        first: At the start of this fit.
        last: At the last topology update, or at the start of this fit.
        step_offset: Steps that the network's weights took before the Trainer began to count.
        history: One record per update.
    """

    first: tuple[int, int] = (0, 0)
    last: tuple[int, int] = (0, 0)
    step_offset: int = 0
    history: list[UpdateRecord] = field(default_factory=list)
    # Position of the update that a method is making at a boundary, None while it makes none; not saved.
    _updating: tuple[int, int] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def starting(cls, epochs: int, steps: int, steps_of_weights: int) -> Counters:
        """Return the counters of a fit that starts after this many epochs and steps of the Trainer."""
        return cls((epochs, steps), (epochs, steps), steps_of_weights - steps)

    def record(
        self,
        number: int,
        now: tuple[int, int],
        rate: float,
        then: Callable[[], object] | None,
        changes: tuple[LayerChange, ...],
    ) -> None:
        """Record one update, however often it is called for it.

        Args:
            number: Number of the update, from 0 on.
            now: Position of the update.
            rate: Prune rate of the update.
            then: Called after that, each time.
            changes: Numbers of weights that each layer lost and gained.
        """
        # In place and in one instruction: an interrupted update may be recorded by two at once.
        self.history[number:] = [UpdateRecord(*now, rate, {change.name: change for change in changes})]
        self.last = now
        if then is not None:
            then()

    def record_at(self, epoch: int, step: int, changes: tuple[LayerChange, ...]) -> None:
        """Record an update that a method makes at a time of its own, however often it is called for it.

        Args:
            epoch: Completed epochs.
            step: Completed optimizer steps.
            changes: Numbers of weights that each layer lost and gained.
        """
        before = sum(change.before for change in changes)
        rate = sum(change.pruned for change in changes) / max(1, before)
        record = UpdateRecord(epoch, step, rate, {change.name: change for change in changes})
        if self.history[-1:] != [record]:
            self.history.append(record)
        if self._updating is not None:  # the update at a boundary has happened, though the method hasn't returned yet
            self.last = self._updating

    @contextmanager
    def update_by_method(self, now: tuple[int, int]) -> Iterator[None]:
        """Count the update that a method makes at a boundary: when it is recorded, or else when the block ends.

        What is saved before, by the handler of a signal for instance, resumes before the update.

        Args:
            now: Position of the update.
        """
        self._updating = now
        try:
            yield
        finally:
            self._updating = None
        self.last = now

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, as a checkpoint needs them."""
        history = [record.to_dict() for record in self.history]
        return {
            "first": list(self.first),
            "last": list(self.last),
            "step_offset": self.step_offset,
            "history": history,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Counters:
        """Return the counters that `to_dict` was called on.

        Raises:
            ValueError: If the values are no counters.
        """
        entries = {name: values.get(name) for name in ("first", "last", "step_offset", "history")}
        try:
            (*first,), (*last,), offset, records = entries.values()  # type: ignore[misc]  # checked below
            history = [UpdateRecord.from_dict(record) for record in records]  # type: ignore[union-attr]  # see except
            ordered = all(0 <= start <= end for start, end in zip(first, last, strict=True)) and len(first) == 2
            valid = ordered and all(map(is_count, [*first, *last, abs(offset)]))  # type: ignore[arg-type]  # see except
            valid = valid and all(record.is_sound for record in history)
        except (AttributeError, KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise InvalidValueError(
                expected="counters of epochs and steps, and records of updates",
                got=f"{repr(entries)[:120]}",
                cure="the state is damaged, load another checkpoint",
            )
        return cls((first[0], first[1]), (last[0], last[1]), offset, history)  # type: ignore[arg-type]  # valid
