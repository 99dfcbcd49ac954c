"""Gradients of the mean loss over fixed batches, measured after optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from lightning_sparse._compat import LightningModule, Trainer
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
from lightning_sparse.callbacks.gradient_flow.records import MeasuredNorms
from lightning_sparse.callbacks.gradient_flow.steps import Source
from lightning_sparse.callbacks.probing.gradients import GradientProbe, Loss, make_probe


class FixedBatchMeasurement(GradientMeasurement):
    """Measure on the same batches every time, with a copy of the model.

    Args:
        schedule: Steps or epochs to measure at.
        weights: Weights to measure.
        masks: Source of their masks.
        orders: Orders of the norms, each in [1, inf].
        batches: Number of batches to draw from the training data, or the batches.
        loss: Function of module and batch that returns the loss, or None for that of ``training_step``.
        seed: Seed for drawing batches and for dropout while measuring.
    """

    def __init__(
        self,
        schedule: MeasurementSchedule,
        weights: TrainedWeights,
        masks: MaskSource,
        orders: Sequence[float],
        *,
        batches: int | list[Any],
        loss: Loss | None,
        seed: int,
    ) -> None:
        super().__init__(schedule, weights, masks, orders)
        self._batches, self._loss, self._seed = batches, loss, seed
        self._probe: GradientProbe | None = None
        self._latest_epoch = -1  # that of the latest step

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Find the weights, plan the epochs, draw the batches.

        Raises:
            ValueError: If there is nothing to measure, the epochs of the run can't be known, the weights are split
                over processes, or the loss is unknown.
            TypeError: If no batches can be drawn from the training data.
        """
        super().start(trainer, module)
        self._probe = make_probe(trainer, module, self._batches, self._loss, self._seed)

    def before_step(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, source: Source = "trainer"
    ) -> None:
        """Count a step."""
        self.steps.begin_in(trainer, module, optimizer, source)
        if not trainer.fit_loop._skip_backward:  # an extra epoch for batch statistics
            self._latest_epoch = trainer.current_epoch

    def before_batch(self) -> None:
        """Do nothing, as for `before_zero_grad`."""

    def before_zero_grad(self) -> None:
        """Do nothing: the run's own gradients are not measured."""

    def before_validation(self, trainer: Trainer, module: LightningModule) -> None:
        """Do nothing: a validation doesn't change the weights."""

    def after_batch(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure if there were steps since the latest measurement and it is time."""
        steps = self.steps.most
        if steps > self.measured_at and self._is_due(trainer, steps):
            # Lightning's own metrics are logged by this number.
            self._add(trainer, module, trainer.fit_loop.epoch_loop._batches_that_stepped)

    def end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure after an epoch that ended early, if there were steps in it."""
        is_unmeasured = self.steps.most > self.measured_at and self._latest_epoch == trainer.current_epoch
        if is_unmeasured and self._schedule.measures_epoch(trainer.current_epoch):
            self._add(trainer, module, trainer.fit_loop.epoch_loop._batches_that_stepped - 1)  # it was counted since

    def _add(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        self.measured_at = self.steps.most  # a failure is not repeated after the next batch
        try:
            weights = self.trained_weights(trainer, module)
            if self._probe is not None and weights:
                self.history.add(self._measure(trainer, module, self._probe, weights, step), replace_last=False)
        except Exception as error:
            self._warn_of(error, trainer)

    def _is_due(self, trainer: Trainer, steps: int) -> bool:
        every = self._schedule.every_n_steps
        if every is not None:  # with several optimizers, a batch may have several steps
            return steps // every > self.measured_at // every
        is_last = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        return is_last and self._schedule.measures_epoch(trainer.current_epoch)

    def _measure(
        self,
        trainer: Trainer,
        module: LightningModule,
        probe: GradientProbe,
        weights: Sequence[TrainedWeight],
        step: int,
    ) -> MeasuredNorms:
        # Weights that PyTorch prunes are effective weights in the copy, with a gradient that is not masked.
        names = [weight.name for weight in weights]
        zeros = [] if self._zero_start is None else self._zero_start.present
        gradients = probe.gradients(trainer, module, [*names, *zeros])
        layers = with_masks(weights, network_of(trainer, module), self._masks)
        return MeasuredNorms(
            epoch=trainer.current_epoch,
            step=step,
            optimizer=None,
            layers=tuple(layer.name for layer in layers),
            has_total=True,
            table=measure_gradients(layers, gradients[: len(names)], self._orders),
            is_starting=None if self._zero_start is None else self._zero_start.holds_back(gradients[len(names) :]),
        )

    def release(self) -> None:
        """Let go of the optimizers and the batches; the history stays."""
        super().release()
        self._probe = None

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements, the numbers of steps, and the epoch of the latest step."""
        state = super().state_dict()
        return {**state, "latest_epoch": self._latest_epoch} if state else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned.

        Raises:
            ValueError: If the state is of other orders.
        """
        super().load_state_dict(state)
        self._latest_epoch = state.get("latest_epoch", -1)
