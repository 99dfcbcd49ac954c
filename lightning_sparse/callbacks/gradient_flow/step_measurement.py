"""Gradients of the optimizer steps of a run, measured when they are ready."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor
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
from lightning_sparse.callbacks.gradient_flow.records import MeasuredNorms, MeasurementHistory, Place
from lightning_sparse.callbacks.gradient_flow.steps import Source
from lightning_sparse.network import SparseNetwork

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
        self._followed: tuple[tuple[int, int | None], list[TrainedWeight], bool] | None = None

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
        every = self._schedule.every_n_steps
        try:
            if every is not None:
                if self.steps.counts[index] % every == 0:
                    self._measure(trainer, module, optimizer, index)
            elif self._schedule.measures_epoch(trainer.current_epoch):
                if self._may_be_last(trainer, module):
                    self._measure(trainer, module, optimizer, index)
                else:
                    self._follow(trainer, module, optimizer, index)
        except Exception as error:
            self._warn_of(error, trainer)

    def before_zero_grad(self) -> None:
        """Let go of the latest gradients, which are about to be cleared."""
        if self._latest is not None:
            self._lost, self._latest = (self._latest.epoch, _CLEARED), None

    def before_validation(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure the latest gradients, since the epoch may end with the validation."""
        self._settle(trainer, module)

    def before_batch(self) -> None:
        """Let go of gradients that the project cleared after the latest batch, to save memory."""
        if self._latest is not None and self._latest.were_cleared:
            self.before_zero_grad()

    def after_batch(self, trainer: Trainer, module: LightningModule) -> None:
        """Do nothing: the step was measured before it was taken."""

    def end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Add the measurement of the latest step, if it was the last one of an epoch that ended early; or warn."""
        self._settle(trainer, module)
        unsettled, lost = self._unsettled, self._lost
        self._latest = self._unsettled = self._lost = None
        if not self._schedule.measures_epoch(trainer.current_epoch):
            return
        if unsettled is not None and unsettled.epoch == trainer.current_epoch:
            self.history.add(unsettled, replace_last=False)
        elif lost is not None and lost[0] == trainer.current_epoch and trainer.is_global_zero:
            warnings.warn(
                f"Expected the gradients of the last step of epoch {lost[0]}, to measure them when it ended; got "
                f"{lost[1]}. The epoch is not measured. Cure: measure at steps, with every_n_steps.",
                stacklevel=2,
            )

    def _may_be_last(self, trainer: Trainer, module: LightningModule) -> bool:
        """Tell whether a step is known to be the last one of its epoch, or may be for all that is known."""
        if not module.automatic_optimization:  # the last batch may have no step of this optimizer
            return True
        return trainer.is_last_batch or trainer.global_step + 1 == trainer.max_steps

    def _measure(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, index: int) -> None:
        """Add the measurement of a step, or replace that of an earlier step or closure, which it comes instead of."""
        network = network_of(trainer, module)
        weights = self._stepped(module, network, optimizer)
        gradients = [weight.parameter.grad for weight in weights]
        if all(gradient is None for gradient in gradients):
            return
        self._latest = self._unsettled = self._lost = None
        norms = self._norms(network, _place(trainer, index), weights, gradients, self._gradients_of_zeros())
        # Of several steps of an epoch, and several closures of a step, the last one counts.
        count = self.steps.counts[index]
        is_repeated = self._schedule.every_n_steps is None or self._measured_step.get(index) == count
        self._measured_step[index] = count
        self.history.add(norms, replace_last=is_repeated)

    def _follow(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, index: int) -> None:
        """Refer to the gradients of a step that is the last one of its epoch only if that ends early."""
        epoch, _, number = place = _place(trainer, index)
        if self._followed is None or self._followed[0] != (epoch, number):
            weights = self._stepped(module, network_of(trainer, module), optimizer)
            self._followed = (epoch, number), weights, trainer.enable_validation
        _, weights, is_validated = self._followed
        step = LatestStep(place, weights, self._gradients_of_zeros(), holds=is_validated)
        if step.has_gradients:
            self._latest, self._unsettled, self._lost = step, None, None

    def _settle(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure the latest gradients, if they are still what the optimizer got."""
        step, self._latest = self._latest, None
        if step is None:
            return
        try:
            if step.were_changed:
                self._lost = step.epoch, _CHANGED
            elif not step.can_be_measured:
                self._lost = step.epoch, _CLEARED
            else:
                network = network_of(trainer, module)
                self._unsettled = self._norms(network, step.place, step.weights, step.gradients, step.of_zeros)
        except Exception as error:
            self._warn_of(error, trainer)

    def _stepped(
        self, module: LightningModule, network: SparseNetwork | None, optimizer: Optimizer
    ) -> list[TrainedWeight]:
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [weight for weight in self._weights.find(module, network) if id(weight.parameter) in stepped]

    def _gradients_of_zeros(self) -> list[Tensor | None]:
        return [] if self._zero_start is None else self._zero_start.gradients()

    def _norms(
        self,
        network: SparseNetwork | None,
        place: Place,
        weights: Sequence[TrainedWeight],
        gradients: Sequence[Tensor | None],
        of_zeros: Sequence[Tensor | None],
    ) -> MeasuredNorms:
        layers = with_masks(weights, network, self._masks)
        return MeasuredNorms(
            *place,
            layers=tuple(layer.name for layer in layers),
            has_total=not any(layer.is_masked_by_autograd for layer in layers),
            table=measure_gradients(layers, gradients, self._orders),
            is_starting=None if self._zero_start is None else self._zero_start.holds_back(of_zeros),
        )

    def release(self) -> None:
        """Let go of the optimizers and of the latest gradients; what was measured stays."""
        if self._run is not None:  # a checkpoint may be saved yet
            self._settle(*self._run)
        self._run = self._followed = None
        super().release()

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements, the numbers of steps, and what is known of a step that may be its epoch's last."""
        if self._run is not None:
            self._settle(*self._run)
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


def _place(trainer: Trainer, index: int) -> Place:
    """Return the place of the present step; Lightning's own metrics are logged by the number in its middle."""
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    return trainer.current_epoch, step, index if len(trainer.optimizers) > 1 else None
