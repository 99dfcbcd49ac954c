"""How specialized a network's channels are, measured in any Lightning Trainer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import chain
from typing import Any, Literal

from torch.nn.parameter import is_lazy

from lightning_sparse._compat import ConfigurationError, LightningModule, Trainer, callbacks_of
from lightning_sparse.callbacks.class_specialization.figures import draw_specialization
from lightning_sparse.callbacks.class_specialization.measurement import Measurement
from lightning_sparse.callbacks.class_specialization.options import check_choice, check_log_name
from lightning_sparse.callbacks.class_specialization.records import (
    History,
    Result,
    copy_history,
    history_of_state,
    without_proportions,
)
from lightning_sparse.callbacks.class_specialization.reporting import specialization_metrics, warn_of_failed_measurement
from lightning_sparse.callbacks.probing.compatibility import check_whole, warn_of_averages
from lightning_sparse.callbacks.probing.distributed import run_on_all_ranks
from lightning_sparse.callbacks.probing.evaluation_batches import SPLITS
from lightning_sparse.callbacks.probing.figure_logging import send_figure
from lightning_sparse.callbacks.probing.forward_pass import ForwardPassCallback
from lightning_sparse.callbacks.probing.logging import log_at
from lightning_sparse.callbacks.probing.rollback import KeepsMeasurements
from lightning_sparse.callbacks.probing.state_key import StateKey
from lightning_sparse.methods.timetable import Cadence
from lightning_sparse.selection.layers import find_layers
from lightning_sparse.selection.patterns import Patterns, name_list
from lightning_sparse.topology.digest import checksum

_FIGURE = "layers"


class ClassSpecializationCallback(KeepsMeasurements, ForwardPassCallback):
    """Measure what part of each channel's activity is due to one class, over all training images.

    The analysis of Dettmers & Zettlemoyer (2019), section 5.2, in any project, with or without sparse training: it
    hooks layers, passes the images through the module in evaluation mode, and keeps one table of channels and classes
    per layer. Nothing else changes: weights are bit for bit those of a run without it, unless reading a data set
    changes the data set. Reading one that has a random state of its own, without workers, advances that state: pass
    such data a second time as `dataloader`. A stream that is a single iterator is measured only after training, on the
    images that training left.

    The activations are the layers' outputs. The authors' code measures after ReLU, and after batch normalization where
    there is one: for networks with ReLU modules choose these (`layers="ReLU"`); for functional ones choose the layers
    before, with `activation="relu"`. The default, the convolutions' own outputs, counts negative activity too, as
    their text says. All calls of a layer that is called several times are summed. Channels are the last dimension of
    the outputs of linear layers, and the second of all others.

    One batch is measured before training, so that layers that don't exist, labels that are no classes and activations
    that are not finite are errors before the first step; `num_sanity_val_steps=0` turns that off. A measurement that
    fails later in a fit is a warning with the error's text, and training continues. In a test it is an error.

    A test sets up a copy of the data module for training, to have the training images. If the data module splits at
    random without a seed, the split may differ from the training run's; pass it as `dataloader`.

    Override `unpack` for batches that are not pairs of images and labels, and `forward` for modules that are not called
    with the images alone. Put the callback behind callbacks that average weights.

    Args:
        layers: Globs on module or type names, or module types; default: all convolutions.
        dataloader: "train", "val" or "test", or any iterable of batches. Default: the training set, not augmented where
            the data module has a method `plain_dataloader(split)`, as this package's have; otherwise what the sampler
            of the training loader draws, in the order of the data set, with any augmentation that this applies.
        num_classes: Number of classes; default: `num_classes` of the module's hyperparameters, the module or the data
            module, or else the largest label plus one, for which the data is iterated once more.
        when: "fit": at the end of training; "test": at the end of `trainer.test`; or "both".
        every_n_epochs: Period in training epochs of additional measurements; default: none.
        activation: "none", or "relu" to apply it to the layers' outputs.
        drop_fraction: The least active channels of a layer that jointly carry less than this part of its activity, in
            [0, 1), are left out: 0.05 in the authors' code, 0 in their text.
        balanced: Whether each class's activity is divided by its number of images first.
        limit_batches: Maximum number of batches to measure, in each process; default: all.
        pictures: Whether to send a figure of each layer's channels to the loggers after every measurement (to a file
            beside the log for loggers that take no figures).
        name: Name in `specialization/<name>/<layer>/...` in the log, for several of these callbacks in one Trainer.

    Attributes:
        result: By layer, the result of `ClassSpecialization`, on the CPU, of the last measurement in this process; None
            if that failed. After resuming, the last result of the history, without the proportions.
        history: Results of all measurements in fit by completed epochs, without the proportions. In checkpoints.

    Raises:
        ValueError: If an argument is out of range or unknown.
        TypeError: If `dataloader` can be iterated only once, or `layers` are no patterns.
    """

    _options_in = ("_measurement", "_cadence")

    def __init__(
        self,
        layers: Patterns | None = None,
        dataloader: str | Iterable[Any] | None = None,
        num_classes: int | None = None,
        when: Literal["fit", "test", "both"] = "fit",
        every_n_epochs: int | None = None,
        activation: Literal["none", "relu"] = "none",
        drop_fraction: float = 0.0,
        balanced: bool = False,
        limit_batches: int | None = None,
        pictures: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__()
        check_choice("when", when, ("fit", "test", "both"))
        check_log_name(name)
        self._measurement = Measurement(
            layers=layers,
            data=SPLITS[0] if dataloader is None else dataloader,
            num_classes=num_classes,
            activation=activation,
            limit_batches=limit_batches,
            metric_options={"drop_fraction": drop_fraction, "balanced": balanced},
        )
        self._when, self._pictures, self._name = when, pictures, name
        self._cadence = None if every_n_epochs is None else Cadence(every_n_epochs)
        self._is_fitting = False
        self._weights: str | None = None  # checksum of the weights at the last measurement
        self.result: Result | None = None
        self.history: History = {}

    @StateKey
    def state_key(self) -> str:
        """Key of the state in checkpoints, distinct for each choice of layers, data and options."""
        layers, data = self._measurement.layers, self._measurement.data
        named = {} if self._name is None else {"name": self._name}
        return self._generate_state_key(
            layers=str(layers if isinstance(layers, (str, type)) or layers is None else tuple(layers)),
            dataloader=data if isinstance(data, str) else type(data).__name__,
            activation=self._measurement.activation,
            **self._measurement.metric_options,
            **named,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clear the measurements of an earlier fit.

        Raises:
            MisconfigurationException: If the strategy splits modules over processes, or another one of these callbacks
                would log the same names.
            ModuleNotFoundError: If pictures are asked for and matplotlib is not installed.
        """
        check_whole(trainer)
        self._check_log_names(trainer, pl_module)
        if self._pictures:
            import lightning_sparse.analysis.pictures  # noqa: F401  # fails now, not days later
        self._is_fitting = stage == "fit"
        if self._is_fitting:
            self._enter_fit()
            self.result, self.history, self._weights = None, {}, None
            warn_of_averages(trainer, self)

    def _check_log_names(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for other in callbacks_of(trainer):
            if not isinstance(other, ClassSpecializationCallback) or other is self:
                continue
            if shared := self._log_names(pl_module) & other._log_names(pl_module):
                raise ConfigurationError(
                    expected=f"each {type(self).__name__} to log under names of its own",
                    got=f"two for {name_list(sorted(shared))}",
                    cure="give one of them a name, as in name='val'",
                )

    def _log_names(self, pl_module: LightningModule) -> set[str]:
        """Return the names of layers, as far as they exist yet, and of figures in the log."""
        patterns = self._measurement.layers
        try:
            layers = set(find_layers(pl_module, patterns))
        except ValueError:  # configure_model will make these layers, or they are an error later
            layers = {"*" if patterns is None else str(patterns)}
        return {f"{self._prefix}/{name}" for name in (*layers, *([_FIGURE] if self._pictures else []))}

    @property
    def _prefix(self) -> str:
        return "specialization" if self._name is None else f"specialization/{self._name}"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure one batch as a rehearsal, if the fit is to be measured.

        Raises:
            ValueError: If there are no such layers or data, or batch and layers don't fit together.
            TypeError: If batches are not pairs of images and labels.
        """
        if self._when in ("fit", "both") or self._cadence is not None:
            self._rehearse(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure one batch as a rehearsal, if the test is to be measured."""
        if self._when in ("test", "both"):
            self._rehearse(trainer, pl_module)

    def _rehearse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        tensors = chain(pl_module.parameters(), pl_module.buffers())
        # A pass would initialize lazy tensors, and all later random numbers would differ.
        if trainer.num_sanity_val_steps and not any(map(is_lazy, tensors)):
            self._measurement.rehearse(self, trainer, pl_module, repeats=self._cadence is not None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, if the period ends."""
        completed = trainer.current_epoch + 1
        if self._cadence is not None and self._cadence.is_due(completed):
            self._measure_in_fit(trainer, pl_module, completed)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the trained network."""
        if self._when in ("fit", "both"):
            self._measure_in_fit(trainer, pl_module, trainer.current_epoch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the tested network."""
        if self._when in ("test", "both"):
            self.measure(trainer, pl_module)

    def _measure_in_fit(self, trainer: Trainer, pl_module: LightningModule, epochs: int) -> None:
        before, self.result = self.result, None
        try:
            if not self._is_new(trainer, pl_module, epochs):
                self.result = before
                return
            self.measure(trainer, pl_module)
        except Exception as error:  # training is worth more than its measurement
            if trainer.is_global_zero:
                warn_of_failed_measurement(error, epochs)
        if self.result is not None:
            self.history[epochs] = without_proportions(self.result)

    def _is_new(self, trainer: Trainer, pl_module: LightningModule, epochs: int) -> bool:
        """Tell whether weights have changed since the last epoch was measured when it ended, if it was."""
        tensors = [tensor for tensor in chain(pl_module.parameters(), pl_module.buffers()) if not is_lazy(tensor)]
        weights, before = checksum(tensors), self._weights
        if epochs in self.history and all(run_on_all_ranks(trainer, lambda: weights == before)):
            return False
        self._weights = weights
        return True

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> Result:
        """Measure now, log the result and return it; to be called in all processes.

        Args:
            trainer: In a run: its data, precision, strategy and loggers are used.
            pl_module: The module of that run.

        Raises:
            ValueError: If there are no such layers or data, labels are out of range, or outputs are not finite or don't
                fit the labels.
            TypeError: If batches are not pairs of images and labels, or a layer's output is not a tensor.
        """
        self.result = self._measurement.run(self, trainer, pl_module)
        log_at(trainer, specialization_metrics(self.result, self._prefix))
        if self._pictures:
            send_figure(trainer, f"{self._prefix}/{_FIGURE}", partial(draw_specialization, self.result))
        return self.result

    def state_dict(self) -> dict[str, Any]:
        """Return the history: tensors and plain Python values."""
        if self._held_state is not None:
            return self._held_state
        return {"history": copy_history(self.history)} if self.history else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history; outside of fit only if there is none yet.

        Raises:
            ValueError: If the state has no history.
        """
        history = history_of_state(state_dict, type(self).__name__)
        if self._is_fitting or not self.history:
            self._note_given(state_dict)
            self.history = history
            if self.result is None and history:
                self.result = history[max(history)]
