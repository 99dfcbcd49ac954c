"""Gradients of the optimizer steps of a run, measured when they are ready."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.callbacks.gradient_flow.history_state import history_state, restored_history
from lightning_sparse.callbacks.gradient_flow.latest_step import LatestStep
from lightning_sparse.callbacks.gradient_flow.layers import (
    MaskSource,
    TrainedWeight,
    TrainedWeights,
    measure_gradients,
    network_of,
    with_masks,
)
from lightning_sparse.callbacks.gradient_flow.measurement import GradientMeasurement
from lightning_sparse.callbacks.gradient_flow.measurement_schedule import MeasurementSchedule
from lightning_sparse.callbacks.gradient_flow.records import MeasuredNorms, MeasurementHistory
from lightning_sparse.callbacks.gradient_flow.steps import Source

_CLEARED = "gradients that were cleared since, by batches without a step or by the project"
_CHANGED = "gradients that were changed in place since, by clipping or by the optimizer"


class StepMeasurement(GradientMeasurement):
    """Measure the gradients that optimizers are about to use.

    Of an epoch that ends before its last batch, the gradients of the latest step are measured when it has ended, before
    a validation (which clears them), or when a checkpoint is saved.

    Args:
        schedule: Steps or epochs to measure at.
        weights: Weights to measure.
        masks: Source of their masks.
        orders: Orders of the norms, each in [1, inf].
    """

    def __init__(
        self, schedule: MeasurementSchedule, weights: TrainedWeights, masks: MaskSource, orders: Sequence[float]
    ) -> None:
        super().__init__(schedule, weights, masks, orders)
        self._measured_step: dict[int, int] = {}  # by optimizer, the number of its step that was measured last
        self._run: tuple[Trainer, LightningModule] | None = None
        self._latest: LatestStep | None = None
        self._unsettled: MeasuredNorms | None = None  # of a step that may turn out to be the last one of its epoch
        self._lost: tuple[int, str] | None = None  # epoch of such a step that can't be measured any more, and why
        # The weights of the present epoch and optimizer: looking for them takes too long for every step.
        self._followed: tuple[tuple[int, int], list[TrainedWeight], bool] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: a copy belongs to no run."""
        return {**vars(self), "_run": None, "_latest": None, "_followed": None}

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Find the weights, plan the epochs, and follow optimizers that the module steps itself.

        Raises:
            ValueError: If there is nothing to measure, or the epochs of the run can't be known.
        """
        super().start(trainer, module)
        self._run = trainer, module

    def before_step(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, source: Source = "trainer"
    ) -> None:
        """Count a step whose gradients are ready, and measure them if it is time."""
        index, status = self.steps.begin_in(trainer, module, optimizer, source)
        if status == "unchanged":
            return
        boundaries = self._schedule.boundaries
        if not boundaries.counts_epochs:
            if boundaries.is_due(self.steps.counts[index]):
                self._attempt(trainer, self._measure, trainer, module, optimizer, index)
        elif boundaries.is_due((epoch := trainer.current_epoch) + 1):
            measure = self._measure if self._may_be_last(trainer, module) else partial(self._follow, epoch)
            self._attempt(trainer, measure, trainer, module, optimizer, index)

    def before_zero_grad(self) -> None:
        """Let go of the latest gradients, which are about to be cleared."""
        if self._latest is not None:
            self._lost, self._latest = (self._latest.epoch, _CLEARED), None

    def before_validation(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure the latest gradients, since the epoch may end with the validation."""
        self._attempt(trainer, self._settle, trainer, module)

    def before_batch(self) -> None:
        """Let go of gradients that the project cleared after the latest batch, to save memory."""
        if self._latest is not None and self._latest.were_cleared:
            self.before_zero_grad()

    def after_batch(self, trainer: Trainer, module: LightningModule) -> None:
        """Do nothing: the step was measured before it was taken."""

    def end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Add the measurement of the latest step, if it was the last one of an epoch that ended early; or warn."""
        self._attempt(trainer, self._settle, trainer, module)
        unsettled, lost = self._unsettled, self._lost
        self._forget_latest()
        if not self._epoch_is_due(trainer):
            return
        if unsettled is not None and unsettled.epoch == trainer.current_epoch:
            self.history.add(unsettled, replace_last=False)
        elif lost is not None and lost[0] == trainer.current_epoch and trainer.is_global_zero:
            warnings.warn(
                f"Expected the gradients of the last step of epoch {lost[0]}, to measure them when it ended; got "
                f"{lost[1]}. The epoch is not measured. Cure: measure at steps, with every_n_steps.",
                stacklevel=2,
            )

    def _forget_latest(self) -> None:
        self._latest = self._unsettled = self._lost = None

    def _may_be_last(self, trainer: Trainer, module: LightningModule) -> bool:
        """Tell whether a step is known to be the last one of its epoch, or may be for all that is known."""
        if not module.automatic_optimization:  # the last batch may have no step of this optimizer
            return True
        return trainer.is_last_batch or trainer.global_step + 1 == trainer.max_steps

    def _measure(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, index: int) -> None:
        step = self._step(trainer, index, self._stepped(trainer, module, optimizer), holds=True)
        if not step.has_gradients:
            return
        self._forget_latest()
        norms = self._norms(trainer, module, step)
        # Of several steps of an epoch, and several closures of a step, the last one counts.
        count = self.steps.counts[index]
        is_repeated = self._schedule.boundaries.counts_epochs or self._measured_step.get(index) == count
        self._measured_step[index] = count
        self.history.add(norms, replace_last=is_repeated)

    def _follow(self, epoch: int, trainer: Trainer, module: LightningModule, optimizer: Optimizer, index: int) -> None:
        """Refer to the gradients of a step that is the last one of its epoch only if that ends early."""
        if self._followed is None or self._followed[0] != (epoch, index):
            weights = self._stepped(trainer, module, optimizer)
            self._followed = (epoch, index), weights, trainer.enable_validation
        _, weights, is_validated = self._followed
        step = self._step(trainer, index, weights, holds=is_validated)
        if step.has_gradients:
            self._latest, self._unsettled, self._lost = step, None, None

    def _stepped(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> list[TrainedWeight]:
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [weight for weight in self.trained_weights(trainer, module) if id(weight.parameter) in stepped]

    def _step(self, trainer: Trainer, index: int, weights: Sequence[TrainedWeight], *, holds: bool) -> LatestStep:
        return LatestStep(
            epoch=trainer.current_epoch,
            step=trainer.fit_loop.epoch_loop._batches_that_stepped,  # by which Lightning's own metrics are logged
            optimizer=index if len(trainer.optimizers) > 1 else None,
            weights=weights,
            of_zeros=self._zero_start.gradients(),
            holds=holds,
        )

    def _settle(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure the latest gradients, if they are still what the optimizer got."""
        step, self._latest = self._latest, None
        if step is None:
            return
        if step.were_changed:
            self._lost = step.epoch, _CHANGED
        elif not step.can_be_measured:
            self._lost = step.epoch, _CLEARED
        else:
            self._unsettled = self._norms(trainer, module, step)

    def _norms(self, trainer: Trainer, module: LightningModule, step: LatestStep) -> MeasuredNorms:
        layers = with_masks(step.weights, network_of(trainer, module), self._masks)
        return MeasuredNorms(
            epoch=step.epoch,
            step=step.step,
            optimizer=step.optimizer,
            layers=tuple(layer.name for layer in layers),
            has_total=not any(layer.is_masked_by_autograd for layer in layers),
            table=measure_gradients(layers, step.gradients, self._orders),
            is_starting=self._zero_start.holds_back(step.of_zeros),
        )

    def release(self) -> None:
        """Let go of the optimizers and of the latest gradients; what was measured stays."""
        if self._run is not None:  # a checkpoint may be saved yet
            self._attempt(self._run[0], self._settle, *self._run)
        self._run = self._followed = None
        super().release()

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements, the numbers of steps, and what is known of a step that may be its epoch's last."""
        if self._run is not None:
            self._attempt(self._run[0], self._settle, *self._run)
        state = super().state_dict()
        if not state or self._unsettled is None:
            return state
        return {**state, "unsettled": history_state(MeasurementHistory([self._unsettled]))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned.

        Raises:
            ValueError: If the state is of other orders.
        """
        super().load_state_dict(state)
        if "unsettled" in state:
            (self._unsettled,) = restored_history(state["unsettled"], self._rows).fetched
