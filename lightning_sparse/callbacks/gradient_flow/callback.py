"""Gradient flow of any Lightning project, measured while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal

from torch.optim import Optimizer

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.analysis.gradient_flow import check_orders
from lightning_sparse.callbacks.gradient_flow.checks import check_choices, check_name, warn_of_nothing
from lightning_sparse.callbacks.gradient_flow.figures import send_figures
from lightning_sparse.callbacks.gradient_flow.fixed_batch_measurement import FixedBatchMeasurement
from lightning_sparse.callbacks.gradient_flow.layers import MaskSource, TrainedWeights
from lightning_sparse.callbacks.gradient_flow.measurement import OPTIONAL_STATE, GradientMeasurement
from lightning_sparse.callbacks.gradient_flow.measurement_schedule import MeasurementSchedule
from lightning_sparse.callbacks.gradient_flow.records import (
    ROOT,
    FlagThresholds,
    GradientFlowRecord,
    average,
    warn_of_flags,
)
from lightning_sparse.callbacks.gradient_flow.step_measurement import StepMeasurement
from lightning_sparse.callbacks.probing.compatibility import check_strategy
from lightning_sparse.callbacks.probing.gradients import Loss, as_batches
from lightning_sparse.callbacks.probing.logging import log_at, under_old_names, warn_of_old_names
from lightning_sparse.callbacks.probing.rollback import KeepsMeasurements
from lightning_sparse.callbacks.probing.state_key import StateKey
from lightning_sparse.network.state import verify_checksum, with_checksum
from lightning_sparse.selection.patterns import Patterns, as_included, as_patterns
from lightning_sparse.validation.representation import ShowsOptions

# Fetch from the device at the latest after this many measurements.
_MAX_WAITING = 50


class GradientFlowCallback(ShowsOptions, KeepsMeasurements):
    """Measure how gradients flow through the weights that exist, in any project, sparse or dense.

    Logs ``gradient_flow/egf_l1`` and ``egf_l2`` (Effective Gradient Flow: the mean over layers of the norm of the
    masked gradient; Tessera et al. 2021), ``gradient_flow/l1`` and ``l2`` (the norm of the unmasked gradient of all
    layers), and ``gradient_flow/layer_egf_l2/<layer>``, the norm of each layer. With several optimizers, each has its
    own: ``gradient_flow/optimizer_0/...``. The callback doesn't change the run, bit for bit. Norms are computed in 32
    bits, or in 64 where gradients are.

    Layers are the weights that a sparse callback of the same Trainer masks, or else the trained weights of linear and
    convolutional layers; biases and normalization don't count. Masks are found without being named: those of our
    callbacks, or of ``torch.nn.utils.prune``; else the network is dense. The gradients of weights that ``prune`` masks
    come masked from PyTorch, so that such networks have no ``l1`` and ``l2`` unless `batches` is given.

    By default gradients are those of the training batches, after gradients of accumulated batches and all processes
    were summed and unscaled, before they are clipped. In manual optimization they are the gradients that the optimizer
    gets, after clipping if the module clips before it steps. Norms stay on the device until they are logged. A step
    without any gradient is not measured. An epoch that ends before its last batch is measured at the last step that it
    had; if its gradients were clipped or cleared by then, a warning says so. A measurement that fails is a warning.

    The history is in memory and in checkpoints: with the paper's two norms, 40 bytes for each layer and measurement.

    Args:
        every_n_steps: Period in steps of each optimizer.
        every_n_epochs: Period in epochs, to measure at the last step of each optimizer in them. Default: 1 if no other
            period is given.
        spread_over_epochs: Number of epochs to measure at the last step of, spread evenly over the run, first and last
            included. The paper's number is 11.
        orders: Orders of the norms, each in [1, inf]. The paper's are 1 and 2.
        masks: "auto"; "zeros", for which a weight is inactive if it is exactly zero; "dense", which ignores all masks.
        normalize: "active" divides each layer's norm by the number of its active weights; the paper doesn't.
        include: Globs on layer, parameter or type names of weights to measure instead of what is masked, or of all
            linear and convolutional layers; "default" among them stands for those.
        exclude: Globs of weights to leave out.
        batches: Fixed batches to measure on instead, after the step: a number, drawn from the training data (if the
            loader is a `DataLoader` over a data set with indices, or ours), or the batches. Gradients are then those of
            their mean loss, in training mode, on a copy of the model: no clipping, no weight decay.
        loss: Function of a copy of the module and a batch that returns the loss, for `batches` only. Default: the loss
            that ``training_step`` returns.
        seed: Seed for drawing `batches` and for dropout while measuring.
        per_layer: Whether to log each layer's norms too.
        vanishing: Fraction of the highest level of all layers below which a layer is flagged; >= 0. A layer's level is
            the root mean square of the gradient of its active weights (or the mean of the largest order). Of a network
            that starts at zero (a last layer, or scales of branches) none is flagged before these exceed 0.01.
        exploding: Level above which a layer is flagged; >= 0.
        pictures: Whether to send pictures to the loggers at the end of training (files beside the log for those that
            take none): the metrics, and the norm of each layer with its flags, over the run.
        name: Name for several of these callbacks in one Trainer, which then log ``gradient_flow/<name>/...``.
        old_metric_names: Whether to log layers as ``gradient_flow/egf_l2/<layer>``, for one more version.

    Attributes:
        history: One `GradientFlowRecord` per measurement.

    Raises:
        ValueError: If an argument is out of range or unknown.
    """

    _options_in = ("_schedule", "_thresholds")

    def __init__(
        self,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        spread_over_epochs: int | None = None,
        orders: Sequence[float] = (1, 2),
        masks: MaskSource = "auto",
        normalize: Literal["active"] | None = None,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        batches: int | Iterable[Any] | None = None,
        loss: Loss | None = None,
        seed: int = 0,
        per_layer: bool = True,
        vanishing: float = 1e-4,
        exploding: float = 10.0,
        pictures: bool = False,
        name: str | None = None,
        old_metric_names: bool = False,
    ) -> None:
        super().__init__()
        self._schedule = MeasurementSchedule(every_n_steps, every_n_epochs, spread_over_epochs)
        self._orders = tuple(orders)
        check_orders(self._orders)
        check_choices(masks, normalize)
        self._masks, self._normalize = masks, normalize
        self._thresholds = FlagThresholds(vanishing, exploding)
        self._include, self._exclude = include, exclude
        as_included(include)
        as_patterns(exclude)
        self._batches, self._loss, self._seed = as_batches(batches), loss, seed
        self._per_layer = per_layer
        self._pictures, self._old_metric_names = pictures, warn_of_old_names(old_metric_names)
        self._name, self._root = name, ROOT if name is None else f"{ROOT}/{name}"
        self._is_fitting = False
        self._reset()

    def _reset(self) -> None:
        self._measurement = self._new_measurement()
        self._logged = 0
        self._warned: set[tuple[str, str]] = set()
        self._log_every = 1

    def _new_measurement(self) -> GradientMeasurement:
        weights = TrainedWeights(self._include, self._exclude)
        options = (self._schedule, weights, self._masks, self._orders)
        if self._batches is None:
            return StepMeasurement(*options)
        return FixedBatchMeasurement(*options, batches=self._batches, loss=self._loss, seed=self._seed)

    @property
    def history(self) -> list[GradientFlowRecord]:
        """One record per measurement of this run."""
        self._measurement.history.fetch()
        return self._records(first=0)

    def _records(self, first: int) -> list[GradientFlowRecord]:
        measured = self._measurement.history.fetched[first:]
        return [norms.record(self._orders, self._normalize, self._thresholds) for norms in measured]

    def summary(self) -> dict[str, float]:
        """Return the mean of each logged metric over the run, the paper's figure for `spread_over_epochs=11`.

        Measurements that are not finite are left out of the mean, and counted: ``non_finite`` of ``measured``.
        """
        return average(self.history, self._root)

    @StateKey
    def state_key(self) -> str:
        """Name of the state in checkpoints, which differs between callbacks of this class."""
        return self._generate_state_key(
            moments=self._schedule.key, orders=self._orders, fixed=self._batches is not None, name=self._name
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier fit.

        Raises:
            MisconfigurationException: Under a strategy that has no gradient of each layer, or beside another callback
                of this class and name.
            ModuleNotFoundError: If pictures are asked for and matplotlib is not installed.
        """
        self._is_fitting = stage == "fit"
        if self._is_fitting:
            if self._pictures:
                import lightning_sparse.analysis.pictures  # noqa: F401  # before training, not days later
            check_strategy(trainer)
            check_name(trainer, self, GradientFlowCallback)
            self._enter_fit()
            self._reset()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layers, plan the epochs, draw the batches.

        Raises:
            ValueError: If there is nothing to measure, or the epochs of the run can't be known.
            TypeError: If no batches can be drawn from the training data.
        """
        self._log_every = getattr(trainer, "log_every_n_steps", 1)  # an attribute that Lightning doesn't declare
        self._measurement.start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Let go of gradients that were cleared after the batch before."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._measurement.before_batch()

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Let go of gradients that are about to be cleared."""
        self._measurement.before_zero_grad()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure the gradients that an optimizer is about to use, if it is time."""
        self._measurement.before_step(trainer, pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure on the fixed batches, if it is time, and log from time to time."""
        self._measurement.after_batch(trainer, pl_module)
        if self._schedule.every_n_steps is None:  # a measurement of an epoch may be replaced until the epoch's end
            return
        waiting, steps = len(self._measurement.history.waiting), self._measurement.steps.most
        if waiting >= _MAX_WAITING or (waiting and self._log_every and steps % self._log_every == 0):
            self._log(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure gradients that the validation makes impossible to measure, should it end the epoch."""
        if self._is_fitting and not trainer.sanity_checking:
            self._measurement.before_validation(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure an epoch that ended early, and log the measurements of the epoch."""
        self._measurement.end_epoch(trainer, pl_module)
        self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the measurements since the last epoch, and draw; warn if there was never anything to measure."""
        self._log(trainer)
        if not self._measurement.trained_weights(trainer, pl_module):
            warn_of_nothing(trainer, self._measurement)
        if self._pictures and self.history:
            send_figures(trainer, self.history, self._root)

    def _log(self, trainer: Trainer) -> None:
        self._measurement.history.fetch()
        records = self._records(first=self._logged)
        self._logged += len(records)
        warn_of_flags(trainer, records, self._warned)
        for record in records:
            metrics = record.metrics(per_layer=self._per_layer, root=self._root)
            shown = under_old_names(metrics) if self._old_metric_names else metrics
            log_at(trainer, shown, record.epoch, record.step)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Log the measurements that the checkpoint has, since a run resumed from it does not log them again."""
        if self._is_fitting and self._schedule.every_n_steps is not None:
            self._log(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements and the numbers of steps."""
        if self._held_state is not None:
            return self._held_state
        state = self._measurement.state_dict()
        return with_checksum({**state, "logged": self._logged}) if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the measurements of an interrupted fit; an evaluation keeps those of the fit before it.

        Raises:
            ValueError: If the state is damaged, or of another callback.
        """
        if not self._is_fitting:
            if not self._measurement.state_dict():
                self._note_given(state_dict)
            return
        entries = {"measurements", "steps", "probed", "logged"} | OPTIONAL_STATE & set(state_dict)
        verify_checksum(state_dict, entries, "a run with this callback")
        self._measurement.load_state_dict(state_dict)
        self._note_given(state_dict)
        by_steps = self._schedule.every_n_steps is not None  # then all was logged when it was saved
        self._logged = len(self._measurement.history.fetched) if by_steps else state_dict["logged"]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers and the batches; the history stays."""
        self._measurement.release()
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Log measurements of steps, and let go of the optimizers: after an exception there is no teardown."""
        if self._schedule.every_n_steps is not None:
            with suppress(Exception):  # of a device or logger that failed: it must not hide the first one
                self._log(trainer)
        self._measurement.release()
        super().on_exception(trainer, pl_module, exception)
