"""What sparse training does at every batch: updates that are due, and zeros that stay zeros."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.optim import Optimizer

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.callbacks.sparse_training.averages import averages_of, mask_averages
from lightning_sparse.callbacks.sparse_training.checkpointing import ResumableCallback
from lightning_sparse.callbacks.sparse_training.compatibility import check_agreement
from lightning_sparse.callbacks.sparse_training.optimizers import check_stepped
from lightning_sparse.callbacks.sparse_training.reporting import log_sparsity, warn_of_untrained
from lightning_sparse.methods.rules import Rules
from lightning_sparse.methods.timetable import Cadence, Due, Position, Timetable
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.topology.plan import LayerChange


class UpdatingCallback(ResumableCallback):
    """Carries out the topology updates of a run when they are due."""

    # Set by the callback that decides which.
    _rules: Rules
    _timetable: Timetable
    _cadence: Cadence
    _network_options: dict[str, Any]
    _counts_epochs: bool
    _has_logged: bool
    _old_metric_names: bool
    # Number of updates of a method that were logged.
    _logged: int = 0
    # Number of epochs or steps at which the next update is due, and the position of the last one, from which that
    # was computed; None: to be computed.
    _boundary: int
    _boundary_after: Position | None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Carry out the topology update of a boundary that has been passed.

        Raises:
            RuntimeError: If processes have different masks or weights after it.
            ValueError: If layers to mask were added, unfrozen, replaced or removed since sparse training began.
        """
        network, counters = self._network, self._counters
        if network is None:
            return
        if counters.last is self._boundary_after and self._restored is None:
            count = trainer.current_epoch if self._counts_epochs else network.steps - counters.step_offset
            if count < self._boundary:  # nothing is due, as at most batches
                network.enforce_changes()
                return
        if not trainer.fit_loop._skip_backward:  # else: an epoch for batch statistics, without updates
            self._begin_or_update(trainer, network)

    def _begin_or_update(self, trainer: Trainer, network: SparseNetwork) -> None:
        if self._restored is not None:  # by a tuner that was started in training
            self._apply_restored(trainer)
        if self._undo is not None:
            self._begin_batch(trainer, network, self._network_options)
        network.enforce_changes()
        counters = self._counters
        network.complete_update()  # one that was interrupted gets its record before the next one gets its number
        now = (trainer.current_epoch, network.steps - counters.step_offset)
        due = self._timetable.due(now, counters)
        if due is not None:
            # Before a step there is nothing to decide by: a gradient scaler may skip all steps of an epoch.
            if now[1] == counters.last[1]:
                check_stepped(network, trainer)
            elif now[1] > counters.last[1]:
                self._update(trainer, network, now, due)  # which logs
                self._has_logged = True
        if not self._has_logged:
            log_sparsity(trainer, network, old_names=self._old_metric_names)
            self._has_logged = True
        if self._undo is None:
            timetable = self._cadence if self._rules.densities is None else self._timetable
            self._boundary_after, self._boundary = counters.last, timetable.next_boundary(counters.last)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Mask weights that changed without a step that hooks see, and count such a step."""
        if self._network is not None:
            self._network.look(lambda: trainer.global_step)
            if self._calls is not None:
                self._follow_method(trainer, self._network)
        if self._undo is not None and self._kernels is not None:  # a batch was trained on
            self._kernels.look()  # which ends it
            self._undo = None

    def _follow_method(self, trainer: Trainer, network: SparseNetwork, *, ends: bool = False) -> None:
        """Do what a change of masks asks for, of a method that makes it at a time of its own."""
        if self._calls is None or not self._calls.have_masks_changed():
            return
        if self._has_averages:
            mask_averages(averages_of(trainer), network)
        history = self._counters.history
        if ends or self._logged != len(history):
            record = history[-1] if self._logged != len(history) else None
            self._logged = len(history)
            if trainer.world_size > 1:
                check_agreement(trainer, network, f"after the topology update of step {network.steps}")
            log_sparsity(trainer, network, record, old_names=self._old_metric_names)

    def _finish_late(self) -> None:
        """Let a method finish a run that is resumed from its last epoch, where nothing is left to train."""
        if self._calls is not None and self._restored is None:
            self._calls.finish()
            self._enforce()

    def _record_of_method(self, epoch: int, step: int, changes: tuple[LayerChange, ...]) -> None:
        self._counters.record_at(epoch, step, changes)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Let a method work with the gradients of a step."""
        if self._calls is not None:
            self._calls.gradients_ready(trainer, optimizer)

    def _update(self, trainer: Trainer, network: SparseNetwork, now: Position, due: Due) -> None:
        network.check_weights()
        if self._calls is not None:
            with self._counters.update_by_method(now):
                self._calls.update(trainer)
            self._follow_method(trainer, network)
            return
        history = self._counters.history
        rate = due.prune_rate
        density = None if due.density is None else self._rules.next_density(network, due)
        if density is None and not due.moves:
            return
        averages = averages_of(trainer) if self._has_averages else []
        then = partial(mask_averages, averages, network) if averages else None
        record = partial(self._counters.record, len(history), now, rate, then)
        network.rewire(self._rules.recipe, rate, density=density, record=record)
        if len(history) == 1 and (untrained := network.untrained):
            warn_of_untrained(trainer, untrained)
        if trainer.world_size > 1:
            check_agreement(trainer, network, f"after the topology update of step {now[1]}")
        log_sparsity(trainer, network, history[-1], old_names=self._old_metric_names)


def final_density(callback: UpdatingCallback) -> Density | None:
    """Return the density that a callback's schedule ends with; None if the density stays."""
    densities = callback._rules.densities
    return None if densities is None else densities.final
