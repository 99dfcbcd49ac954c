"""Gradients of the optimizer steps of a run, measured when they are ready."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.callbacks.gradient_flow.layers import (
    MaskSource,
    TrainedWeights,
    measure_gradients,
    network_of,
    with_masks,
)
from lightning_sparse.callbacks.gradient_flow.measurement import GradientMeasurement
from lightning_sparse.callbacks.gradient_flow.measurement_schedule import MeasurementSchedule
from lightning_sparse.callbacks.gradient_flow.records import MeasuredNorms
from lightning_sparse.callbacks.gradient_flow.steps import Source


class StepMeasurement(GradientMeasurement):
    """Measure the gradients that optimizers are about to use.

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

    def before_step(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, source: Source = "trainer"
    ) -> None:
        """Count a step whose gradients are ready, and measure them if it is time."""
        index, status = self.steps.begin_in(trainer, module, optimizer, source)
        if status != "unchanged" and self._is_due(trainer, module, self.steps.counts[index]):
            self._measure(trainer, module, optimizer, index)

    def after_batch(self, trainer: Trainer, module: LightningModule) -> None:
        """Do nothing: the step was measured before it was taken."""

    def _is_due(self, trainer: Trainer, module: LightningModule, steps: int) -> bool:
        boundaries = self._schedule.boundaries
        if not boundaries.counts_epochs:
            return boundaries.is_due(steps)
        # In manual optimization no step is known to be the last one of its optimizer.
        is_last = trainer.is_last_batch or trainer.global_step + 1 == trainer.max_steps
        return boundaries.is_due(trainer.current_epoch + 1) and (is_last or not module.automatic_optimization)

    def _measure(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, index: int) -> None:
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        weights = [weight for weight in self._weights.find(module) if id(weight.parameter) in stepped]
        gradients = [weight.parameter.grad for weight in weights]
        if all(gradient is None for gradient in gradients):
            return
        layers = with_masks(weights, network_of(trainer, module), self._masks)
        norms = MeasuredNorms(
            epoch=trainer.current_epoch,
            step=trainer.fit_loop.epoch_loop._batches_that_stepped,  # by which Lightning's own metrics are logged
            optimizer=index if len(trainer.optimizers) > 1 else None,
            layers=tuple(layer.name for layer in layers),
            has_total=not any(layer.is_masked_by_autograd for layer in layers),
            table=measure_gradients(layers, gradients, self._orders),
        )
        # Of several steps of an epoch, and several closures of a step, the last one counts.
        count = self.steps.counts[index]
        is_repeated = self._schedule.boundaries.counts_epochs or self._measured_step.get(index) == count
        self._measured_step[index] = count
        self.history.add(norms, replace_last=is_repeated)
