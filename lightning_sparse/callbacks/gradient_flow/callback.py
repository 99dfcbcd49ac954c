"""Gradient flow of any Lightning project, measured while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal

from torch.optim import Optimizer

from lightning_sparse._compat import (
    Callback,
    ConfigurationError,
    LightningModule,
    Trainer,
    callbacks_of,
)
from lightning_sparse.analysis.gradient_flow import check_orders
from lightning_sparse.callbacks.gradient_flow.figures import send_pictures
from lightning_sparse.callbacks.gradient_flow.layers import (
    MaskSource,
    TrainedWeights,
    measure_gradients,
    network_of,
    with_masks,
)
from lightning_sparse.callbacks.gradient_flow.measurement_schedule import MeasurementSchedule
from lightning_sparse.callbacks.gradient_flow.records import (
    ROOT,
    GradientFlowRecord,
    Limits,
    Measurement,
    Measurements,
    average,
)
from lightning_sparse.callbacks.gradient_flow.reporting import log_records, warn_of_flags
from lightning_sparse.callbacks.gradient_flow.steps import HookedOptimizers, SeenSteps
from lightning_sparse.callbacks.probing.compatibility import check_strategy
from lightning_sparse.callbacks.probing.gradients import GradientProbe, Loss, as_batches, make_probe
from lightning_sparse.network.state import verify_checksum, with_checksum
from lightning_sparse.selection.patterns import Patterns, as_included, as_patterns
from lightning_sparse.validation.errors import InvalidValueError

# So many measurements wait on the device, at most, before they are fetched together.
_MOST_WAITING = 50


class GradientFlowCallback(Callback):
    """Measure how gradients flow through the weights that exist, in any project, sparse or dense.

    Logs ``gradient_flow/egf_l1`` and ``egf_l2`` (Effective Gradient Flow: the mean over layers of the norm of the
    masked gradient; Tessera et al. 2021), ``gradient_flow/l1`` and ``l2`` (the norm of the unmasked gradient of all
    layers), and ``gradient_flow/egf_l2/<layer>``, that of each layer. With several optimizers, each has its own:
    ``gradient_flow/optimizer_0/...``. The run itself is the same with and without this callback, bit for bit. Norms are
    computed in 32 bits, or in 64 where gradients are.

    Layers are the weights of linear and convolutional layers that are trained; biases and normalization don't count.
    Masks are found by themselves: those of our callbacks, or of ``torch.nn.utils.prune``; else the network is dense.
    The gradients of weights that ``prune`` masks come masked from PyTorch, so that such networks have no ``l1`` and
    ``l2`` unless `batches` is given.

    By default gradients are those of the training batches, after gradients of accumulated batches and all processes
    were summed and unscaled, before they are clipped. In manual optimization it is what the optimizer is given, after
    clipping if the module clips before it steps. Measures wait on the device until they are logged. A step without
    any gradient is none.

    The history is in memory and in checkpoints: with the paper's two norms, 40 bytes for each layer and measurement.

    Args:
        every_n_steps: Measure at every n-th step of each optimizer.
        every_n_epochs: Measure at the last step of each optimizer in every n-th epoch; 1 if nothing else is given.
        spread_over_epochs: Measure at the last step of so many epochs, spread evenly over the run, first and last
            included. The paper's number is 11.
        orders: Of the norms, each in [1, inf]. The paper's are 1 and 2.
        masks: "auto"; "zeros" takes weights for inactive that are exactly zero; "dense" ignores all masks.
        normalize: "active" divides each layer's norm by the number of its active weights; the paper doesn't.
        include: Measure these instead of all linear and convolutional layers: globs on layer, parameter or type names.
        exclude: Leave these out, likewise.
        batches: Measure on a fixed set of batches instead, after the step: a number, drawn from the training data
            (where the loader is a `DataLoader` over a data set with indices, or ours), or the batches. Gradients are
            then those of their mean loss, in training mode, on a copy of the model: no clipping, no weight decay.
        loss: Returns the loss of a batch, given a copy of the module and the batch; default: what ``training_step``
            returns. For `batches` only.
        seed: Of the choice of `batches`, and of what is random in the model with them.
        per_layer: Whether to log each layer's norms too.
        vanishing: A layer is flagged where the root mean square of the gradient of its active weights (or the mean of
            the largest order) is below this part of the highest of all layers; >= 0.
        exploding: Or above this; > 0.
        pictures: Whether to send pictures to the loggers at the end of training (files beside the log of those that
            take none): the measures, and the norm of each layer with its flags, over the run.
        name: For several of these callbacks in one Trainer: what they log is ``gradient_flow/<name>/...``.

    Attributes:
        history: One `GradientFlowRecord` per measurement.

    Raises:
        ValueError: If an argument is out of range or unknown.
    """

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
    ) -> None:
        super().__init__()
        self._moments = MeasurementSchedule(every_n_steps, every_n_epochs, spread_over_epochs)
        self._orders = tuple(orders)
        check_orders(self._orders)
        _check_choices(masks, normalize, vanishing, exploding)
        self._masks, self._normalize = masks, normalize
        self._include, self._exclude = include, exclude
        as_included(include)
        as_patterns(exclude)
        self._batches, self._loss, self._seed = as_batches(batches), loss, seed
        self._per_layer = per_layer
        self._limits = Limits(vanishing, exploding)
        self._pictures = pictures
        self._name, self._root = name, ROOT if name is None else f"{ROOT}/{name}"
        self._is_fitting = False
        self._reset()

    def _reset(self) -> None:
        self._measurements = Measurements()
        self._logged = 0
        self._steps = SeenSteps()
        self._measured: dict[int, int] = {}  # by optimizer, the number of the step that was measured last
        self._hooked: HookedOptimizers | None = None
        self._weights = TrainedWeights(self._include, self._exclude)
        self._probe: GradientProbe | None = None
        self._probed = 0
        self._warned: set[tuple[str, str]] = set()
        self._log_every = 1

    @property
    def history(self) -> list[GradientFlowRecord]:
        """One record per measurement of this run."""
        self._measurements.fetch()
        return [self._record(measurement) for measurement in self._measurements.fetched]

    def summary(self) -> dict[str, float]:
        """Return the average of each logged measure over the run, the paper's figure for `spread_over_epochs=11`.

        Measurements that are not finite are left out of the average, and counted: ``non_finite`` of ``measured``.
        """
        return average(self.history, self._root)

    def _record(self, measurement: Measurement) -> GradientFlowRecord:
        return measurement.record(self._orders, self._normalize, self._limits)

    @property
    def state_key(self) -> str:
        """Name of the state in checkpoints: that of each callback of this class is its own."""
        return self._generate_state_key(
            moments=self._moments.key, orders=self._orders, fixed=self._batches is not None, name=self._name
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
            self._check_name(trainer)
            self._reset()

    def _check_name(self, trainer: Trainer) -> None:
        others = [each for each in callbacks_of(trainer) if isinstance(each, GradientFlowCallback) and each is not self]
        if any(each._name == self._name for each in others):
            raise ConfigurationError(
                expected="another name of each GradientFlowCallback in a Trainer, by which measures are told apart",
                got=f"{self._name!r} of two",
                cure="GradientFlowCallback(name='fixed_batches'), for instance",
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layers, plan the epochs, draw the batches.

        Raises:
            ValueError: If there is nothing to measure, or the epochs of the run can't be known.
            TypeError: If no batches can be drawn from the training data.
        """
        self._weights.check(pl_module)
        self._moments.plan(trainer)
        self._steps = self._steps.anew(may_skip=getattr(trainer.precision_plugin, "scaler", None) is not None)
        self._log_every = getattr(trainer, "log_every_n_steps", 1)  # an attribute that Lightning doesn't declare
        if self._batches is not None:
            self._probe = make_probe(trainer, pl_module, self._batches, self._loss, self._seed)
        if not pl_module.automatic_optimization:  # the module may step optimizers behind the Trainer's back
            self._hooked = HookedOptimizers(_Steps(self, trainer, pl_module))
            for optimizer in trainer.optimizers:
                self._hooked.hook(optimizer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure the gradients that an optimizer is about to use, if it is time."""
        self._see(trainer, pl_module, optimizer, "trainer")

    def _see(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, by: Literal["trainer", "optimizer"]
    ) -> None:
        index = _index(trainer, optimizer)
        seen = self._steps.see(index, by, trainer.fit_loop.total_batch_idx if module.automatic_optimization else None)
        if seen != "no more" and self._probe is None and self._is_due(trainer, module, self._steps.counts[index]):
            self._measure(trainer, module, optimizer)

    def _is_due(self, trainer: Trainer, module: LightningModule, steps: int) -> bool:
        if self._moments.every_n_steps is not None:
            return self._moments.is_step_due(steps)
        # In manual optimization no step can be told to be the last one of its optimizer.
        is_last = trainer.is_last_batch or trainer.global_step + 1 == trainer.max_steps
        return self._moments.is_epoch_due(trainer.current_epoch) and (is_last or not module.automatic_optimization)

    def _measure(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        weights = [weight for weight in self._weights.find(module) if id(weight.parameter) in own]
        if all(weight.parameter.grad is None for weight in weights):
            return
        layers = with_masks(weights, network_of(trainer, module), self._masks)
        table = measure_gradients(layers, [weight.parameter.grad for weight in weights], self._orders)
        has_total = not any(layer.is_masked_by_autograd for layer in layers)
        names = tuple(layer.name for layer in layers)
        index = _index(trainer, optimizer)
        number = index if len(trainer.optimizers) > 1 else None
        measured = Measurement(trainer.current_epoch, _step(trainer), number, names, has_total, table)
        # Of several steps of an epoch, and several closures of a step, the last one counts.
        again = self._moments.every_n_steps is None or self._measured.get(index) == self._steps.counts[index]
        self._measured[index] = self._steps.counts[index]
        self._measurements.add(measured, instead=again)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure on the fixed batches, if it is time, and log now and then what was measured."""
        steps = self._steps.most
        if self._probe is not None and steps > self._probed and self._is_probe_due(trainer, steps):
            self._measurements.add(self._probe_now(trainer, pl_module, self._probe), instead=False)
            self._probed = steps
        waiting = len(self._measurements.waiting)
        # What is measured by epochs may be replaced until the epoch's end.
        if self._moments.every_n_steps is not None and (
            waiting >= _MOST_WAITING or (waiting and self._log_every and steps % self._log_every == 0)
        ):
            self._log(trainer)

    def _is_probe_due(self, trainer: Trainer, steps: int) -> bool:
        every = self._moments.every_n_steps
        if every is not None:  # with several optimizers, a batch may have several steps
            return steps // every > self._probed // every
        is_last = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        return is_last and self._moments.is_epoch_due(trainer.current_epoch)

    def _probe_now(self, trainer: Trainer, module: LightningModule, probe: GradientProbe) -> Measurement:
        weights = self._weights.find(module)
        # There, pruned weights are effective weights, with a gradient that is not masked.
        found = probe.gradients(trainer, module, [weight.name for weight in weights])
        layers = with_masks(weights, network_of(trainer, module), self._masks)
        table = measure_gradients(layers, found, self._orders)
        names = tuple(layer.name for layer in layers)
        return Measurement(trainer.current_epoch, _step(trainer), None, names, True, table)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was measured."""
        self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was measured since the last epoch, and draw."""
        self._log(trainer)
        if self._pictures and self.history:
            send_pictures(trainer, self.history, self._root)

    def _log(self, trainer: Trainer) -> None:
        self._measurements.fetch()
        new = self._measurements.fetched[self._logged :]
        self._logged += len(new)
        records = [self._record(measurement) for measurement in new]
        warn_of_flags(trainer, records, self._warned)
        log_records(trainer, records, per_layer=self._per_layer, root=self._root)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Log what the checkpoint has, since a run that goes on from it does not log it again."""
        if self._is_fitting and self._moments.every_n_steps is not None:
            self._log(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured, and how many steps were taken."""
        if not self._steps.counts and not self._measurements.fetched:
            return {}
        steps = {str(index): count for index, count in self._steps.counts.items()}
        counts = {"steps": steps, "probed": self._probed, "logged": self._logged}
        return with_checksum({"measurements": self._measurements.state_dict(), **counts})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the measurements of an interrupted fit; those of a finished one outlive an evaluation.

        Raises:
            ValueError: If the state is damaged, or not this callback's.
        """
        if not self._is_fitting:
            return
        verify_checksum(state_dict, {"measurements", "steps", "probed", "logged"}, "a run with this callback")
        self._measurements = Measurements.from_state_dict(state_dict["measurements"], 2 * len(self._orders) + 1)
        by_steps = self._moments.every_n_steps is not None  # then all was logged when it was saved
        self._logged = len(self._measurements.fetched) if by_steps else state_dict["logged"]
        self._steps.counts = {int(index): count for index, count in state_dict["steps"].items()}
        self._probed = state_dict["probed"]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers and the batches; the history stays."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Log what was measured by steps, and let go of the optimizers: after an exception there is no teardown."""
        if self._moments.every_n_steps is not None:
            with suppress(Exception):  # of a device or logger that failed: it must not hide the first one
                self._log(trainer)
        self._release()

    def _release(self) -> None:
        if self._hooked is not None:
            self._hooked.release()
        self._hooked = self._probe = None


class _Steps:
    """Tells the callback of steps that the Trainer may not see."""

    def __init__(self, callback: GradientFlowCallback, trainer: Trainer, module: LightningModule) -> None:
        self._callback, self._trainer, self._module = callback, trainer, module

    def before_step(self, optimizer: Optimizer) -> None:
        """Measure the gradients, if it is time."""
        self._callback._see(self._trainer, self._module, optimizer, "optimizer")

    def after_step(self, optimizer: Optimizer) -> None:
        """Be ready for the next step."""
        self._callback._steps.end(_index(self._trainer, optimizer))


def _index(trainer: Trainer, optimizer: Optimizer) -> int:
    return next((index for index, each in enumerate(trainer.optimizers) if each is optimizer), 0)


def _step(trainer: Trainer) -> int:
    return trainer.fit_loop.epoch_loop._batches_that_stepped  # by which Lightning's own metrics are logged


def _check_choices(masks: str, normalize: str | None, vanishing: float, exploding: float) -> None:
    if masks not in ("auto", "zeros", "dense"):
        raise InvalidValueError(
            expected="masks as 'auto', 'zeros' or 'dense'",
            got=repr(masks),
            cure="'auto' finds them",
        )
    if normalize not in (None, "active"):
        raise InvalidValueError(
            expected="normalize as None or 'active'",
            got=repr(normalize),
            cure="None is the paper's",
        )
    for name, limit in (("vanishing", vanishing), ("exploding", exploding)):
        if isinstance(limit, (bool, str)) or not limit >= 0:
            raise InvalidValueError(
                expected=f"{name} >= 0",
                got=repr(limit),
                cure="leave it out for the default",
            )
