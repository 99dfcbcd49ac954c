"""Optimizer steps, each counted once though a Trainer's hook and the optimizer's own may both announce it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_sparse._compat import LightningModule, Trainer

Source = Literal["trainer", "optimizer"]
StepStatus = Literal["new", "repeated", "unchanged"]


class StepCounter:
    """Count the steps of several optimizers, announced by a Trainer's hook or by the optimizers' own hooks.

    A Trainer doesn't announce the steps of raw optimizers in manual optimization. The optimizer's hook comes before a
    closure that computes the gradients, but after a gradient scaler has unscaled them, and not at all if the scaler
    skips the step.

    Args:
        may_skip: Whether steps that the Trainer has announced may be skipped, as by a gradient scaler.

    Attributes:
        counts: Steps so far, by the optimizers' numbers.
    """

    def __init__(self, *, may_skip: bool = False) -> None:
        self._may_skip = may_skip
        self.counts: dict[int, int] = {}
        # Batch of each optimizer's latest step.
        self._batch: dict[int, int] = {}
        # Source of the latest announcement of a step in progress.
        self._in_progress: dict[int, Source] = {}

    def resumed(self, *, may_skip: bool) -> StepCounter:
        """Return a copy with the same counts and no step in progress."""
        steps = StepCounter(may_skip=may_skip)
        steps.counts = self.counts
        return steps

    @property
    def most(self) -> int:
        """Steps of the busiest optimizer."""
        return max(self.counts.values(), default=0)

    def begin(self, optimizer: int, source: Source, batch: int | None = None) -> StepStatus:
        """Note that an optimizer is about to step, or evaluates a closure once more for the same step.

        Args:
            optimizer: Number of the optimizer.
            source: Hook that announces the step.
            batch: Number of the batch if it has at most one step of each optimizer, None if it may have several.

        Returns:
            "new" for a step that is announced for the first time; "repeated" for a later announcement, after which
            gradients may have changed; "unchanged" if they can't have.
        """
        earlier = self._in_progress.get(optimizer)
        if (earlier, source) == ("trainer", "optimizer"):
            return "unchanged"
        self._in_progress[optimizer] = source
        if self._is_same_step(optimizer, earlier, source, batch):
            return "repeated"
        self.counts[optimizer] = self.counts.get(optimizer, 0) + 1
        return "new"

    def _is_same_step(self, optimizer: int, earlier: str | None, source: str, batch: int | None) -> bool:
        if batch is not None:
            last, self._batch[optimizer] = self._batch.get(optimizer), batch
            return last == batch
        return (earlier, source) == ("optimizer", "trainer") or (earlier == source == "trainer" and not self._may_skip)

    def begin_in(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, source: Source
    ) -> tuple[int, StepStatus]:
        """Note that an optimizer of a run is about to step; return its number and the status of the step."""
        index = optimizer_index(trainer, optimizer)
        batch = trainer.fit_loop.total_batch_idx if module.automatic_optimization else None
        return index, self.begin(index, source, batch)

    def end(self, optimizer: int) -> None:
        """Note that an optimizer has stepped."""
        self._in_progress.pop(optimizer, None)


class OptimizerHooks:
    """Hooks around the steps of optimizers, whoever calls them.

    Args:
        before_step: Function to call with the optimizer before each step.
        after_step: Function to call with the optimizer after each step.
    """

    def __init__(self, before_step: Callable[[Optimizer], None], after_step: Callable[[Optimizer], None]) -> None:
        self._before_step, self._after_step = before_step, after_step
        self._handles: list[RemovableHandle] = []

    def attach(self, optimizer: Optimizer) -> None:
        """Add the hooks to an optimizer."""
        self._handles.append(optimizer.register_step_pre_hook(lambda *_: self._before_step(optimizer)))
        self._handles.append(optimizer.register_step_post_hook(lambda *_: self._after_step(optimizer)))

    def remove(self) -> None:
        """Remove the hooks from all optimizers."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def optimizer_index(trainer: Trainer, optimizer: Optimizer) -> int:
    """Return the number of an optimizer in the Trainer's list; 0 for one that is not in it."""
    return next((index for index, candidate in enumerate(trainer.optimizers) if candidate is optimizer), 0)
