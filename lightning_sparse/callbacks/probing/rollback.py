"""Restoring what a fit that trains nothing has changed: one that fails before its first batch, or that has none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_sparse._compat import Callback, LightningModule, Trainer


class Rollback:
    """State of a callback before a fit, with copies of the weights that the fit will mask.

    The copies of the weights live until the first step only: before there are gradients, so that they don't raise the
    most memory that a run needs.

    Args:
        owner: The callback, of which attributes are kept, not what they refer to.
    """

    def __init__(self, owner: object) -> None:
        self._owner, self._attributes = owner, dict(vars(owner))
        self._weights: list[tuple[Tensor, Tensor]] = []

    def keep(self, weights: Iterable[Tensor]) -> None:
        """Copy weights, before any of them is zeroed."""
        self._weights = [(weight, weight.detach().clone()) for weight in weights]

    @torch.no_grad()
    def undo(self, *, weights: bool = True) -> None:
        """Restore attributes, and weights if not told otherwise."""
        for weight, copy in self._weights if weights else ():
            weight.copy_(copy)
        vars(self._owner).update(self._attributes)


class KeepsMeasurements(Callback):
    """Keeps the measurements of the fit before if a fit trains nothing, and saves what it was given until it trains.

    A subclass calls `_enter_fit` in setup before it forgets an earlier fit, `_note_given` when it takes a state, and
    saves `_held_state` if there is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._undo: Rollback | None = None
        self._held_state: dict[str, Any] | None = None

    def _enter_fit(self) -> None:
        self._held_state = None
        self._undo = Rollback(self)

    def _note_given(self, state: dict[str, Any]) -> None:
        self._held_state = state

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Note that the fit trains something."""
        self._undo = self._held_state = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the measurements of the fit before, if this one trained nothing."""
        self._leave_fit()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the measurements of the fit before, if this one trained nothing; its checkpoint has none."""
        if self._leave_fit():
            self._held_state = {}

    def _leave_fit(self) -> bool:
        """Return whether the fit was undone: not if a checkpoint gave a state, which belongs to its weights."""
        undo, self._undo = self._undo, None
        if undo is None or self._held_state is not None:
            return False
        undo.undo()
        return True
