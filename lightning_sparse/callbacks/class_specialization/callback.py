"""How specialized a network's channels are, measured in any Lightning Trainer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import chain
from typing import Any, Literal

from torch.nn.parameter import is_lazy

from lightning_sparse._compat import (
    ConfigurationError,
    LightningModule,
    Trainer,
    callbacks_of,
)
from lightning_sparse.analysis.checks import check_specialization_options
from lightning_sparse.analysis.class_specialization import ClassSpecialization
from lightning_sparse.callbacks.cadence import Cadence
from lightning_sparse.callbacks.class_specialization.activation_recorder import (
    ACTIVATIONS,
    ActivationRecorder,
    check_called,
)
from lightning_sparse.callbacks.class_specialization.records import (
    Result,
    copied,
    drawn,
    warn_of_failure,
    without_proportions,
)
from lightning_sparse.callbacks.class_specialization.reporting import specialization_metrics
from lightning_sparse.callbacks.probing.compatibility import check_whole, warn_of_averages
from lightning_sparse.callbacks.probing.distributed import run_on_all_ranks
from lightning_sparse.callbacks.probing.evaluation_batches import (
    SPLITS,
    check_repeatable,
    evaluation_batches,
    is_one_stream,
    limit_of,
)
from lightning_sparse.callbacks.probing.figure_logging import send_figure
from lightning_sparse.callbacks.probing.forward_pass import ForwardPassCallback, count_classes, known_classes
from lightning_sparse.callbacks.probing.isolation import isolated_evaluation
from lightning_sparse.callbacks.probing.logging import log_now
from lightning_sparse.selection.layers import find_layers
from lightning_sparse.selection.patterns import Patterns, as_included, name_list
from lightning_sparse.topology.digest import checksum
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.numbers import check_integer

_PICTURE = "layers"


class ClassSpecializationCallback(ForwardPassCallback):
    """Measure what part of each channel's activity is due to one class, over all training images.

    The analysis of Dettmers & Zettlemoyer (2019), section 5.2, in any project, with or without sparse training: hooks
    layers, passes the images through the module in evaluation mode, and keeps one table of channels and classes per
    layer. Nothing else changes: a run with it has bit for bit the weights of the run without it, unless reading a data
    set changes it. One that keeps random numbers of its own goes on with others after it was read here, without
    workers: give such data once more as `dataloader`. Of a stream that is a single iterator, what is left after
    training is measured, and nothing before.

    What is measured is what a layer puts out. The authors' code measures after ReLU, and after batch normalization
    where there is one: for networks with ReLU modules choose these (`layers="ReLU"`); for functional ones choose the
    layers before, with `activation="relu"`. The default, the convolutions' own outputs, counts negative activity too,
    as their text says. A layer that is called several times counts all of its calls as one. Channels are the last
    dimension of what linear layers put out, and the second of anything else.

    One batch is measured before training already, so that what can't work is an error then, and so are labels that are
    no classes and activations that are not finite; `num_sanity_val_steps=0` turns that off. What shows only later in a
    fit is a warning with the error's text: no training is lost to it. In a test it is an error.

    A test sets a copy of the data module up for training anew, to have the training images; where that splits at random
    without a seed of its own, these are others than were trained on: give them as `dataloader`.

    Override `unpack` for batches that are no pairs of images and labels, and
    `forward` for modules that are called otherwise. Put the callback behind those that average weights.

    Args:
        layers: Globs on module or type names, or module types; default: all convolutions.
        dataloader: "train", "val" or "test", or any iterable of batches. Default: the training set, not augmented where
            the data module has a method `plain_dataloader(split)`, as those of this package; otherwise the data set of
            the training loader in its order, with whatever augmentation is in it.
        num_classes: Number of classes; default: `num_classes` of the module's hyperparameters, the module or the data
            module, or else the largest label plus one, for which the data is gone through once more.
        when: "fit": at the end of training; "test": at the end of `trainer.test`; or "both".
        every_n_epochs: After every so many training epochs, too.
        activation: "none", or "relu" to apply it to what the layers put out.
        drop_fraction: The least active channels of a layer that jointly carry less than this part of its activity, in
            [0, 1), are left out: 0.05 in the authors' code, 0 in their text.
        balanced: Whether each class's activity is divided by its number of images first.
        limit_batches: Look at so many batches only, in each process.
        pictures: Whether to send a picture of the channels of each layer to the loggers after every measurement (a file
            beside the log of those that take none).
        name: Logs `specialization/<name>/<layer>/...`, so that several of these callbacks can be in one Trainer.

    Attributes:
        result: By layer, what `ClassSpecialization` computes, on the CPU: of the last measurement in this process; None
            if that failed. Of a run that is resumed the last of the history, without the proportions.
        history: By completed epochs, the same of every measurement in fit, without the proportions. In checkpoints.

    Raises:
        ValueError: If an argument is out of range or unknown.
        TypeError: If `dataloader` can't be gone through again, or `layers` are no patterns.
    """

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
        as_included(layers)
        self._data = SPLITS[0] if dataloader is None else dataloader
        if isinstance(self._data, str):
            _check_choice("dataloader", self._data, SPLITS)
        else:
            check_repeatable(self._data)
        _check_choice("when", when, ("fit", "test", "both"))
        _check_choice("activation", activation, tuple(ACTIVATIONS))
        check_specialization_options(num_classes, drop_fraction)
        if name is not None and not (isinstance(name, str) and name.strip()):
            raise InvalidValueError(
                expected="name to be a word, or None",
                got=repr(name),
                cure="name='val', for instance",
            )
        if limit_batches is not None:
            limit_batches = check_integer(
                limit_batches, 1, expected="limit_batches >= 1, an integer, or None", cure="1, for instance"
            )
        self._layers, self._num_classes, self._limit_batches = layers, num_classes, limit_batches
        self._when, self._activation = when, activation
        self._cadence = None if every_n_epochs is None else Cadence(every_n_epochs)
        self._metric_options: dict[str, Any] = {"drop_fraction": drop_fraction, "balanced": balanced}
        self._pictures, self._name = pictures, name
        self._is_fitting = False
        self._weights: str | None = None  # a checksum of what was measured last
        self.result: Result | None = None
        self.history: dict[int, Result] = {}

    @property
    def state_key(self) -> str:
        """Key of the state in checkpoints, of its own for each choice of layers, data and options."""
        layers = self._layers if isinstance(self._layers, (str, type)) or self._layers is None else tuple(self._layers)
        data = self._data if isinstance(self._data, str) else type(self._data).__name__
        named = {} if self._name is None else {"name": self._name}
        return self._generate_state_key(
            layers=str(layers), dataloader=data, activation=self._activation, **self._metric_options, **named
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the measurements of an earlier fit.

        Raises:
            MisconfigurationException: If the strategy splits modules over processes, or another one of these callbacks
                would log the same names.
            ModuleNotFoundError: If pictures are asked for and matplotlib is not installed.
        """
        check_whole(trainer)
        self._check_names(trainer, pl_module)
        if self._pictures:
            import lightning_sparse.analysis.pictures  # noqa: F401  # before training, not days later
        self._is_fitting = stage == "fit"
        if self._is_fitting:
            self.result, self.history, self._weights = None, {}, None
            warn_of_averages(trainer, self)

    def _check_names(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for other in callbacks_of(trainer):
            if not isinstance(other, ClassSpecializationCallback) or other is self:
                continue
            if both := self._names(pl_module) & other._names(pl_module):
                raise ConfigurationError(
                    expected=f"each {type(self).__name__} to log under names of its own",
                    got=f"two for {name_list(sorted(both))}",
                    cure="give one of them a name, as in name='val'",
                )

    def _names(self, pl_module: LightningModule) -> set[str]:
        """Return what is logged: layers, as far as there are any yet, and pictures."""
        try:
            layers = set(find_layers(pl_module, self._layers))
        except ValueError:  # of layers that configure_model will make, or that are an error later
            layers = {"*" if self._layers is None else str(self._layers)}
        return {f"{self._prefix}/{name}" for name in (*layers, *([_PICTURE] if self._pictures else []))}

    @property
    def _prefix(self) -> str:
        return "specialization" if self._name is None else f"specialization/{self._name}"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pass one batch if the fit is to be measured, to see what can't work before it matters.

        Raises:
            ValueError: If there are no such layers or data, or batch and layers don't fit together.
            TypeError: If batches are no pairs of images and labels.
        """
        if self._when in ("fit", "both") or self._cadence is not None:
            self._rehearse(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise, if the test is to be measured."""
        if self._when in ("test", "both"):
            self._rehearse(trainer, pl_module)

    def _rehearse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        tensors = chain(pl_module.parameters(), pl_module.buffers())
        # What has no values yet would be drawn, and weights of others after it.
        if not trainer.num_sanity_val_steps or any(map(is_lazy, tensors)):
            return
        with isolated_evaluation(trainer, pl_module), evaluation_batches(trainer, pl_module, self._data) as batches:
            if any(run_on_all_ranks(trainer, lambda: is_one_stream(batches))):
                find_layers(pl_module, self._layers)
                self._check_stream(trainer, pl_module)
            else:
                listener, channels = self._listen(trainer, pl_module, batches, rehearsal=True)
                listener.compute(channels, trainer.strategy.root_device)

    def _check_stream(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._cadence is not None or not (self._num_classes or known_classes(trainer, pl_module)):
            raise InvalidTypeError(
                expected="data that can be gone through again, to measure every few epochs or to count classes",
                got="a data set that is one iterator, of which training would miss what is looked at",
                cure=(
                    "a data set whose __iter__ starts anew (yield in it), other data as dataloader, or "
                    "num_classes and no every_n_epochs"
                ),
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, if it is time."""
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
        tensors = [each for each in chain(pl_module.parameters(), pl_module.buffers()) if not is_lazy(each)]
        weights, before = checksum(tensors), self._weights
        if epochs in self.history and all(run_on_all_ranks(trainer, lambda: weights == before)):
            return  # the last epoch was measured when it ended, and nothing has changed weights since
        self._weights, self.result = weights, None
        try:
            self.measure(trainer, pl_module)
        except Exception as error:  # the training is worth more than what is said of it
            if trainer.is_global_zero:
                warn_of_failure(error, epochs)
        if self.result is not None:
            self.history[epochs] = without_proportions(self.result)

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> Result:
        """Measure now, log it and return it; in all processes.

        Args:
            trainer: In a run: its data, precision, strategy and loggers are used.
            pl_module: The module of that run.

        Raises:
            ValueError: If there are no such layers or data, labels are out of range, or what layers put out is not
                finite or doesn't fit the labels.
            TypeError: If batches are no pairs of images and labels, or a layer doesn't put out a tensor.
        """
        with isolated_evaluation(trainer, pl_module), evaluation_batches(trainer, pl_module, self._data) as batches:
            listener, channels = self._listen(trainer, pl_module, batches)
            self.result = listener.compute(channels, trainer.strategy.root_device)
        log_now(trainer, specialization_metrics(self.result, self._prefix))
        if self._pictures:
            send_figure(trainer, f"{self._prefix}/{_PICTURE}", partial(drawn, self.result))
        return self.result

    def _listen(
        self, trainer: Trainer, pl_module: LightningModule, batches: Iterable[Any], *, rehearsal: bool = False
    ) -> tuple[ActivationRecorder, dict[str, int]]:
        """Pass the batches; return who listened, and the channels of all layers that were called in any process."""
        layers = find_layers(pl_module, self._layers)
        limit = limit_of(trainer, batches, 1 if rehearsal else self._limit_batches)
        unpacked = partial(self._unpacked, trainer, pl_module, batches, limit)
        classes = self._num_classes or known_classes(trainer, pl_module)
        classes = classes or max(run_on_all_ranks(trainer, lambda: count_classes(unpacked())))
        classes = max(classes, 2) if rehearsal else classes  # a first batch may be of one class
        options = {"sync_on_compute": trainer.world_size > 1, **self._metric_options}
        listener = ActivationRecorder(layers, partial(ClassSpecialization, classes, **options), self._activation)

        def listen() -> dict[str, int]:
            with listener.listening():
                for images, labels in unpacked():
                    listener.labels = labels
                    self._pass(trainer, pl_module, images)
            return listener.channels

        channels = {name: number for called in run_on_all_ranks(trainer, listen) for name, number in called.items()}
        check_called(list(layers), channels, warns=trainer.is_global_zero and not rehearsal)
        return listener, channels

    def state_dict(self) -> dict[str, Any]:
        """Return the history: tensors and plain Python values."""
        return {"history": copied(self.history)} if self.history else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a history; outside of fit only where there is none yet.

        Raises:
            ValueError: If there is none in the state.
        """
        history = state_dict.get("history")
        if not isinstance(history, dict):
            raise InvalidValueError(
                expected=f"the state of a {type(self).__name__}, with its history",
                got=sorted(state_dict),
                cure="resume from a checkpoint of a run with this callback",
            )
        if self._is_fitting or not self.history:
            self.history = copied(history)
            if self.result is None and history:
                self.result = self.history[max(self.history)]


def _check_choice(name: str, choice: object, known: tuple[str, ...]) -> None:
    if choice not in known:
        raise InvalidValueError(
            expected=f"{name} from {', '.join(known)}",
            got=repr(choice),
            cure="name one of these",
        )
