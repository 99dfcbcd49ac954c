"""Counts each step of each optimizer once, though it may be seen twice."""

from __future__ import annotations

from typing import Any, Literal

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

Seen = Literal["first", "again", "no more"]


class SeenSteps:
    """Steps of some optimizers, seen by a Trainer's hook when gradients are ready, or by the optimizers' own hooks.

    A Trainer doesn't see the steps of raw optimizers in manual optimization. The optimizer's hook comes before a
    closure that makes the gradients, but after a gradient scaler has unscaled them, and not at all if the scaler skips
    the step.

    Args:
        may_skip: Whether something, such as a gradient scaler, skips steps that the Trainer's hook has seen.

    Attributes:
        counts: Steps so far, by the optimizers' numbers.
    """

    def __init__(self, *, may_skip: bool = False) -> None:
        self._may_skip = may_skip
        self.counts: dict[int, int] = {}
        # The batch that each optimizer was seen in last.
        self._batch: dict[int, int] = {}
        # Who saw a step that is not over.
        self._seen: dict[int, Literal["trainer", "optimizer"]] = {}

    def anew(self, *, may_skip: bool) -> SeenSteps:
        """Return what goes on with these counts, with no step begun."""
        steps = SeenSteps(may_skip=may_skip)
        steps.counts = self.counts
        return steps

    @property
    def most(self) -> int:
        """Steps of the busiest optimizer."""
        return max(self.counts.values(), default=0)

    def see(self, optimizer: int, by: Literal["trainer", "optimizer"], batch: int | None = None) -> Seen:
        """Note that an optimizer is about to step, or evaluates a closure once more for the same step.

        Args:
            optimizer: Its number.
            by: Who saw it.
            batch: Number of the batch where there is at most one step for each, None where there may be several.

        Returns:
            "first" if the step was not seen before; "again" if it was, but gradients may be others now; "no more" if
            nothing has changed since.
        """
        before = self._seen.get(optimizer)
        if (before, by) == ("trainer", "optimizer"):
            return "no more"
        self._seen[optimizer] = by
        if self._is_same(optimizer, before, by, batch):
            return "again"
        self.counts[optimizer] = self.counts.get(optimizer, 0) + 1
        return "first"

    def _is_same(self, optimizer: int, before: str | None, by: str, batch: int | None) -> bool:
        if batch is not None:
            last, self._batch[optimizer] = self._batch.get(optimizer), batch
            return last == batch
        return (before, by) == ("optimizer", "trainer") or (before == by == "trainer" and not self._may_skip)

    def end(self, optimizer: int) -> None:
        """Note that an optimizer has stepped."""
        self._seen.pop(optimizer, None)


class HookedOptimizers:
    """Optimizers that announce their steps, until they are released.

    Args:
        watcher: Whose ``before_step(optimizer)`` and ``after_step(optimizer)`` are called.
    """

    def __init__(self, watcher: Any) -> None:
        self._watcher = watcher
        self._handles: list[RemovableHandle] = []

    def hook(self, optimizer: Optimizer) -> None:
        """Have an optimizer announce its steps."""
        self._handles.append(optimizer.register_step_pre_hook(lambda *_: self._watcher.before_step(optimizer)))
        self._handles.append(optimizer.register_step_post_hook(lambda *_: self._watcher.after_step(optimizer)))

    def release(self) -> None:
        """Have them all announce nothing any more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
