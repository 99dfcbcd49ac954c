"""A topology update that happens as a whole or not at all, whatever interrupts it and whoever looks at it meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.network.budgeted_model import BudgetedModel
from lightning_sparse.network.dtensor import to_local
from lightning_sparse.network.masks import Masks
from lightning_sparse.topology.packing import unpack_mask
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.rewire import Rewiring

# Records an update elsewhere: called with the changes, perhaps twice for the same update.
Record = Callable[[tuple[LayerChange, ...]], None]

# Under which a model's hooks have ours. A name of ours, not a number of PyTorch's: then it is set and removed in one
# instruction each, between which no signal can come.
_HOOK: Any = "lightning_sparse topology update"


@dataclass
class DecidedUpdate:
    """A topology update that is decided: what is left to do can be done twice, or by somebody else.

    Attributes:
        rewiring: Survivors and new masks, packed.
        random_state: State of the network's generator after the draws of the update.
        record: Function that records it elsewhere, as a part of it.
        is_applied: Whether weights, masks, counts and random state are those of after.
    """

    rewiring: Rewiring[Tensor]
    random_state: Tensor
    record: Record | None
    is_applied: bool = False


class RewirableModel(BudgetedModel):
    """A masked model whose masks, weights, counts and random state change together.

    Signals interrupt Python between any two instructions: a handler may save a checkpoint then, and Ctrl-C raises an
    error there. So an update is decided without changing anything, made known by a single assignment, and applied from
    then on by steps that may be repeated. Who needs masks, counts or random state while it is not applied yet applies
    it first: the handler, or whoever comes after the error.
    """

    _update: DecidedUpdate | None = None
    _generator: torch.Generator

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: an update that is complete."""
        self.complete_update()
        return super().__getstate__()

    @property
    def _masks(self) -> Masks:
        self._apply_update()
        return self._latest_masks

    @_masks.setter
    def _masks(self, masks: Masks) -> None:
        self._latest_masks = masks

    @property
    def _active(self) -> dict[str, int]:
        """Number of active weights by name, of masked weights and of those that stay dense."""
        self._apply_update()
        return self._latest_counts

    @_active.setter
    def _active(self, counts: Mapping[str, int]) -> None:
        self._latest_counts = dict(counts)

    def _carry_out(self, update: DecidedUpdate) -> None:
        """Change everything that an update changes."""
        hooks = self.model._state_dict_pre_hooks
        try:
            hooks[_HOOK] = self.complete_update  # as the model's weights may be saved alone
            self._update = update  # from here on it has happened
            self.complete_update()
        except BaseException:  # Ctrl-C, or what a signal handler raises
            self.complete_update()
            raise
        finally:
            if self._update is None:
                hooks.pop(_HOOK, None)

    def complete_update(self, *_: object) -> None:
        """Complete a topology update that was interrupted, if there is one; every part of it may be repeated."""
        update = self._update
        if update is not None:
            self._apply_update()
            if update.record is not None:
                update.record(update.rewiring.changes)
            self._update = None

    @torch.no_grad()
    def _apply_update(self) -> None:
        update = self._update
        if update is None or update.is_applied:
            return
        for change in update.rewiring.changes:
            weight = to_local(self._parameters[change.name]).detach()
            weight.mul_(unpack_mask(update.rewiring.survivors[change.name], weight.shape).to(weight.dtype))
            self._latest_masks[change.name] = unpack_mask(update.rewiring.masks[change.name], weight.shape)
            self._latest_counts[change.name] = change.active
        self._generator.set_state(update.random_state)
        update.is_applied = True
