"""Base of the two ways to measure gradients during a run: at the optimizer steps themselves, or on fixed batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.callbacks.gradient_flow.history_state import history_state, restored_history
from lightning_sparse.callbacks.gradient_flow.layers import MaskSource, TrainedWeight, TrainedWeights, network_of
from lightning_sparse.callbacks.gradient_flow.measurement_schedule import MeasurementSchedule
from lightning_sparse.callbacks.gradient_flow.records import MeasurementHistory
from lightning_sparse.callbacks.gradient_flow.steps import OptimizerHooks, Source, StepCounter, optimizer_index
from lightning_sparse.callbacks.gradient_flow.zero_start import ZeroStart, zero_parameters
from lightning_sparse.callbacks.probing.failures import warn_of_failure

# Entries of the state that checkpoints of earlier versions don't have.
OPTIONAL_STATE = {"latest_epoch", "unsettled", "zero_start"}


class GradientMeasurement(ABC):
    """Measure gradients of a run when a schedule says so. A measurement that fails is a warning.

    Args:
        schedule: Steps or epochs to measure at.
        weights: Weights to measure.
        masks: Source of their masks.
        orders: Orders of the norms, each in [1, inf].

    Attributes:
        history: All measurements of the run.
        steps: Steps of each optimizer.
        measured_at: Number of steps at the latest measurement on fixed batches.
    """

    def __init__(
        self, schedule: MeasurementSchedule, weights: TrainedWeights, masks: MaskSource, orders: Sequence[float]
    ) -> None:
        self._schedule, self._weights, self._masks, self._orders = schedule, weights, masks, orders
        self.history = MeasurementHistory()
        self.steps = StepCounter()
        self.measured_at = 0
        self._zero_start: ZeroStart | None = None  # None: the network doesn't start at zero
        self._hooks: OptimizerHooks | None = None

    @abstractmethod
    def before_step(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, source: Source = "trainer"
    ) -> None:
        """Count a step whose gradients are ready, and measure them where they are to be measured."""

    @abstractmethod
    def after_batch(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure after a training batch, where that is the time to."""

    @abstractmethod
    def before_batch(self) -> None:
        """Let go of gradients that were cleared after the batch before."""

    @abstractmethod
    def before_zero_grad(self) -> None:
        """Let go of gradients that are about to be cleared."""

    @abstractmethod
    def before_validation(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure what a validation within an epoch makes impossible to measure later."""

    @abstractmethod
    def end_epoch(self, trainer: Trainer, module: LightningModule) -> None:
        """Measure at the end of an epoch that is to be measured and was not, as nobody knew that it would end there."""

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Find the weights, plan the epochs, and follow optimizers that the module steps itself.

        Raises:
            ValueError: If there is nothing to measure, or the epochs of the run can't be known.
        """
        self._weights.check(module, network_of(trainer, module))
        self._schedule.plan(trainer)
        try:
            self._find_zeros(module)
        except Exception as error:
            self._warn_of(error, trainer)
        self.steps = self.steps.resumed(may_skip=getattr(trainer.precision_plugin, "scaler", None) is not None)
        if not module.automatic_optimization:  # the module may step optimizers behind the Trainer's back
            self._hooks = OptimizerHooks(
                before_step=partial(self.before_step, trainer, module, source="optimizer"),
                after_step=lambda optimizer: self.steps.end(optimizer_index(trainer, optimizer)),
            )
            for optimizer in trainer.optimizers:
                self._hooks.attach(optimizer)

    def _find_zeros(self, module: LightningModule) -> None:
        """Find the parameters that are zero as training begins; in a resumed run, those that were."""
        if not self.steps.counts:
            names = zero_parameters(module)
            self._zero_start = ZeroStart(names) if names else None
        if self._zero_start is not None:
            self._zero_start.begin(module)

    def trained_weights(self, trainer: Trainer, module: LightningModule) -> list[TrainedWeight]:
        """Return the weights that would be measured now."""
        return self._weights.find(module, network_of(trainer, module))

    def _warn_of(self, error: Exception, trainer: Trainer) -> None:
        """Warn of a measurement that failed, of each kind of error once: training is worth more than a measurement."""
        expected = f"to measure gradients in epoch {trainer.current_epoch}"
        cure = "that of this error, or leave GradientFlowCallback out"
        warn_of_failure(trainer, f"gradients: {type(error).__name__}", expected, error, cure)

    def release(self) -> None:
        """Let go of the optimizers; the history stays."""
        if self._hooks is not None:
            self._hooks.remove()
        self._hooks = None
        if self._zero_start is not None:
            self._zero_start.end()

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements and the numbers of steps; empty before the first step."""
        if not self.steps.counts and not self.history.fetched:
            return {}
        steps = {str(index): count for index, count in self.steps.counts.items()}
        state = {"measurements": history_state(self.history), "steps": steps, "probed": self.measured_at}
        return state if self._zero_start is None else {**state, "zero_start": list(self._zero_start.names)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned.

        Raises:
            ValueError: If the state is of other orders.
        """
        self.history = restored_history(state["measurements"], self._rows)
        self.steps.counts = {int(index): count for index, count in state["steps"].items()}
        self.measured_at = state["probed"]
        self._zero_start = ZeroStart(state["zero_start"]) if "zero_start" in state else None

    @property
    def _rows(self) -> int:
        """Number of rows of each table of norms."""
        return 2 * len(self._orders) + 1
