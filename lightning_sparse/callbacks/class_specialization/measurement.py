"""One measurement of class specialization, and its rehearsal on a single batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.analysis.class_specialization import ClassSpecialization
from lightning_sparse.analysis.specialization_inputs import check_specialization_options
from lightning_sparse.callbacks.class_specialization.activation_recorder import (
    ACTIVATIONS,
    ActivationRecorder,
    check_called,
)
from lightning_sparse.callbacks.class_specialization.options import check_choice
from lightning_sparse.callbacks.class_specialization.records import Result
from lightning_sparse.callbacks.probing.distributed import run_on_all_ranks
from lightning_sparse.callbacks.probing.evaluation_batches import (
    SPLITS,
    check_repeatable,
    evaluation_batches,
    is_one_stream,
    limit_of,
)
from lightning_sparse.callbacks.probing.forward_pass import ForwardPassCallback, count_classes, known_classes
from lightning_sparse.callbacks.probing.isolation import isolated_evaluation
from lightning_sparse.selection.layers import find_layers
from lightning_sparse.selection.patterns import Patterns, as_included
from lightning_sparse.validation.errors import InvalidTypeError
from lightning_sparse.validation.numbers import check_integer


@dataclass(frozen=True)
class Measurement:
    """Layers, data and options of a measurement; see the arguments of `ClassSpecializationCallback`.

    Attributes:
        layers: Globs or module types; None: all convolutions.
        data: "train", "val" or "test", or an iterable of batches.
        num_classes: Number of classes; None: from the module, the data module or the labels.
        activation: Name of the function in `ACTIVATIONS` that is applied to outputs first.
        limit_batches: Maximum number of batches in each process.
        metric_options: `drop_fraction` and `balanced` of `ClassSpecialization`.

    Raises:
        ValueError: If a value is out of range or unknown.
        TypeError: If the data can be iterated only once, or `layers` are no patterns.
    """

    layers: Patterns | None
    data: str | Iterable[Any]
    num_classes: int | None
    activation: str
    limit_batches: int | None
    metric_options: dict[str, Any]

    def __post_init__(self) -> None:
        as_included(self.layers)
        if isinstance(self.data, str):
            check_choice("dataloader", self.data, SPLITS)
        else:
            check_repeatable(self.data)
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_specialization_options(self.num_classes, self.metric_options["drop_fraction"])
        if self.limit_batches is not None:
            limit = check_integer(
                self.limit_batches, 1, expected="limit_batches >= 1, an integer, or None", cure="1, for instance"
            )
            object.__setattr__(self, "limit_batches", limit)  # a frozen dataclass

    def run(self, callback: ForwardPassCallback, trainer: Trainer, pl_module: LightningModule) -> Result:
        """Run all batches through the module and return the result of each layer; in all processes.

        Args:
            callback: Callback whose `unpack` and `forward` handle the batches.
            trainer: In a run.
            pl_module: The module of that run.
        """
        with isolated_evaluation(trainer, pl_module), evaluation_batches(trainer, pl_module, self.data) as batches:
            recorder, channels = self._record(callback, trainer, pl_module, batches)
            return recorder.compute(channels, trainer.strategy.root_device)

    def rehearse(
        self, callback: ForwardPassCallback, trainer: Trainer, pl_module: LightningModule, *, repeats: bool
    ) -> None:
        """Measure one batch and discard the result, to raise before training what can be known before.

        Args:
            callback: Callback whose `unpack` and `forward` handle the batch.
            trainer: In a run.
            pl_module: The module of that run.
            repeats: Whether there will be several measurements in this run.
        """
        with isolated_evaluation(trainer, pl_module), evaluation_batches(trainer, pl_module, self.data) as batches:
            if any(run_on_all_ranks(trainer, lambda: is_one_stream(batches))):
                # A batch that is read from a single iterator would be missing in training.
                find_layers(pl_module, self.layers)
                self._check_stream(trainer, pl_module, repeats)
            else:
                recorder, channels = self._record(callback, trainer, pl_module, batches, rehearsal=True)
                recorder.compute(channels, trainer.strategy.root_device)

    def _check_stream(self, trainer: Trainer, pl_module: LightningModule, repeats: bool) -> None:
        if repeats or not (self.num_classes or known_classes(trainer, pl_module)):
            raise InvalidTypeError(
                expected="data that can be iterated again, to measure every few epochs or to count classes",
                got="a data set that is a single iterator: training would miss the images that are measured",
                cure=(
                    "a data set whose __iter__ starts from the beginning (yield in it), other data as dataloader, or "
                    "num_classes and no every_n_epochs"
                ),
            )

    def _record(
        self,
        callback: ForwardPassCallback,
        trainer: Trainer,
        pl_module: LightningModule,
        batches: Iterable[Any],
        *,
        rehearsal: bool = False,
    ) -> tuple[ActivationRecorder, dict[str, int]]:
        """Run batches; return the recorder, and the number of channels of each layer called in any process."""
        layers = find_layers(pl_module, self.layers)
        limit = limit_of(trainer, batches, 1 if rehearsal else self.limit_batches)
        unpacked = partial(callback._unpacked, trainer, pl_module, batches, limit)
        classes = self.num_classes or known_classes(trainer, pl_module)
        classes = classes or max(run_on_all_ranks(trainer, lambda: count_classes(unpacked())))
        classes = max(classes, 2) if rehearsal else classes  # a first batch may have a single class
        options = {"sync_on_compute": trainer.world_size > 1, **self.metric_options}
        recorder = ActivationRecorder(layers, partial(ClassSpecialization, classes, **options), self.activation)

        def record() -> dict[str, int]:
            with recorder.recording():
                for images, labels in unpacked():
                    recorder.labels = labels
                    callback._run_forward(trainer, pl_module, images)
            return recorder.channels

        channels = {name: number for called in run_on_all_ranks(trainer, record) for name, number in called.items()}
        check_called(list(layers), channels, warns=trainer.is_global_zero and not rehearsal)
        return recorder, channels
