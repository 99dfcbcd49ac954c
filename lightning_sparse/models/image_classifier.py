"""The LightningModule that trains an image classifier."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_sparse._compat import LRSchedulerCallable, OptimizerCallable
from lightning_sparse.models.accelerated_module import AcceleratedModule, replayable
from lightning_sparse.models.classifier_arguments import (
    CompileMode,
    check_argument_types,
    check_booleans,
    check_classifier_options,
    make_network,
)
from lightning_sparse.models.num_classes import check_data_classes, check_logits
from lightning_sparse.models.running_mean import RunningMean

Batch = tuple[Tensor, Tensor]


def paper_sgd(params: Any) -> torch.optim.SGD:
    """Make the optimizer of sparse momentum (Dettmers and Zettlemoyer, 2019, section 4): SGD with Nesterov momentum.

    Args:
        params: Parameters or parameter groups.
    """
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


class ImageClassifier(AcceleratedModule):
    """Trains an image classification network with cross-entropy, and logs losses and accuracies.

    Logs ``train/loss``, ``val/loss``, ``val/accuracy``, ``test/loss`` and ``test/accuracy`` once per epoch,
    each the mean over the images; with more than 5 classes also ``val/accuracy_top5`` and
    ``test/accuracy_top5``. Accuracies are in [0, 1].

    A checkpoint of a run started by LightningCLI holds all arguments. One of a run in Python holds only the plain
    ones, such as the name of a model; pass the others when loading it:
    ``ImageClassifier.load_from_checkpoint(path, model=LeNet300100())``.

    Args:
        model: Network from images ``(batch, channels, height, width)`` to logits ``(batch, num_classes)``; or a name
            for :func:`create_model`: of a network, such as "wrn-28-2", or the import path of a class or function that
            makes one, such as "torchvision.models.resnet18".
        optimizer: Function from the parameters to the optimizer, such as
            ``functools.partial(torch.optim.SGD, lr=0.1)``. Default: SGD with learning rate 0.1, Nesterov
            momentum 0.9 and weight decay 5e-4.
        lr_scheduler: Function from the optimizer to the learning rate schedule. None: a constant learning rate.
            ``ReduceLROnPlateau`` watches ``val/loss`` and needs ``lr_interval="epoch"``.
        lr_interval: Interval, optimizer step or epoch, at which the schedule is stepped.
        num_classes: Number of classes, >= 2, and of the network's outputs. A network made by name gets it, too, if it
            has the option. A data module with more classes is an error at setup, one with fewer a warning.
        model_options: Other arguments of a network made by name, such as ``{"width": 0.5}``: plain Python values, so
            that a checkpoint can hold them.
        channels_last: Whether convolutions store their weights, and thereby their features, with the channels
            innermost: the same mathematics, often faster (1.5 times for LeNet-5-Caffe on a CPU, and usual with 16-bit
            precision on a GPU), with other rounding. See PyTorch's ``torch.channels_last``.
        compile_mode: Mode of ``torch.compile`` with which the network is compiled at the first training batch, for
            batches of one size: a smaller last batch of an epoch and evaluation run eagerly (with PyTorch before 2.6
            they are compiled, too, each separately). Names of parameters and in checkpoints don't change; rounding
            and the random numbers of dropout do. On a GPU, "default" goes well with ``cuda_graph``. None: not
            compiled.
        cuda_graph: Whether a GPU replays forward and backward passes as one CUDA graph, so that small networks need
            not wait for Python: the same numbers, in less time. Python code in the network's forward pass runs only
            while recording: hooks and changes of a dropout rate have no effect in replayed steps.
            ``on_before_zero_grad`` sees the gradients of the current step. The option has no effect without a GPU, with
            several processes, accumulated gradients, a gradient scaler (fp16), anomaly detection or manual
            optimization, in a mode of ``torch.compile`` that makes graphs of its own ("reduce-overhead",
            "max-autotune"), or in subclasses that override ``training_step``, ``backward`` or ``optimizer_zero_grad``.

    Raises:
        ValueError: If ``num_classes``, ``lr_interval`` or ``compile_mode`` is outside its range, there is no such name,
            or ``model_options`` don't fit it, aren't plain values or come with a module.
        TypeError: If ``model`` is no module, ``optimizer`` or ``lr_scheduler`` can't be called, or ``channels_last`` or
            ``cuda_graph`` is no bool.
    """

    def __init__(
        self,
        model: str | nn.Module,
        optimizer: OptimizerCallable = paper_sgd,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["step", "epoch"] = "step",
        num_classes: int = 10,
        model_options: dict[str, Any] | None = None,
        channels_last: bool = False,
        compile_mode: CompileMode | None = None,
        cuda_graph: bool = False,
    ) -> None:
        super().__init__()
        check_classifier_options(lr_interval, num_classes, compile_mode)
        check_booleans(channels_last=channels_last, cuda_graph=cuda_graph)
        check_argument_types(model, optimizer, lr_scheduler)
        network = make_network(model, model_options, num_classes)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler", *([] if isinstance(model, str) else ["model"])])
        if "_instantiator" in self.hparams:
            # LightningCLI knows the three ignored arguments as plain YAML: then the checkpoint is complete.
            self.save_hyperparameters()
        self.model = network.to(memory_format=torch.channels_last) if channels_last else network
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self.num_classes, self.compile_mode, self.cuda_graph = num_classes, compile_mode, cuda_graph
        self.val_metrics, self.test_metrics = _metrics("val", num_classes), _metrics("test", num_classes)
        self._train_loss = RunningMean()

    def setup(self, stage: str) -> None:
        """Compile the network, and compare the number of classes with the data module's, if it has one.

        Args:
            stage: "fit", "validate", "test" or "predict", for which labels don't matter.

        Raises:
            ValueError: If the data have more classes.
        """
        super().setup(stage)
        if stage != "predict":
            check_data_classes(self.trainer.datamodule, self.num_classes)  # type: ignore[attr-defined]  # of a Trainer's connector

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, num_classes)``."""
        return self.model(images)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any

    @replayable
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of the batch.

        Nothing is logged here: ``self.log`` would add a quarter to the time of a step of a small network.
        """
        images, labels = batch
        # Not in on_train_epoch_start, which isn't called for the epoch after resuming at the last batch of one.
        if batch_idx == 0:
            self._train_loss.reset()
        loss = self._loss_or_replay(images, labels, batch_idx)
        self._train_loss.add(loss.detach(), labels.shape[0])
        return loss

    def on_train_epoch_end(self) -> None:
        """Log ``train/loss``."""
        if self._train_loss.weight > 0:
            self.log("train/loss", self._train_loss.compute(), sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the batch to the metrics."""
        self._evaluate(batch, batch_idx, self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss`` and the accuracies."""
        self.log_dict(_by_name(self.val_metrics), prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the batch to the metrics."""
        self._evaluate(batch, batch_idx, self.test_metrics)

    def on_test_epoch_end(self) -> None:
        """Log ``test/loss`` and the accuracies."""
        self.log_dict(_by_name(self.test_metrics))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the class probabilities ``(batch, num_classes)``; labels in the batch are ignored."""
        return self._run_eagerly(batch[0]).softmax(dim=1)

    def configure_optimizers(self) -> Any:
        """Make the optimizer and, if there is one, the learning rate schedule."""
        optimizer = self.optimizer(self.parameters())
        if self.lr_scheduler is None:
            return optimizer
        schedule = {
            "scheduler": self.lr_scheduler(optimizer),
            "interval": self.lr_interval,
            "monitor": "val/loss",
        }
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the sum of this epoch's losses so far."""
        checkpoint["train_loss"] = self._train_loss.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sum of the epoch's losses so far."""
        if "train_loss" in checkpoint:
            self._train_loss.load_state_dict(checkpoint["train_loss"])

    def _loss(self, images: Tensor, labels: Tensor, *, eager: bool = False) -> Tensor:
        logits = self._run_eagerly(images) if eager else self.model(images)
        check_logits(logits, self.num_classes)
        return cross_entropy(logits, labels)

    def _evaluate(self, batch: Batch, batch_idx: int, metrics: nn.ModuleDict) -> None:
        images, labels = batch
        logits = self._run_eagerly(images)
        if batch_idx == 0:
            check_logits(logits, self.num_classes)
        loss = cross_entropy(logits, labels)
        for name, metric in _by_name(metrics).items():
            if name.endswith("loss"):
                metric.update(loss, weight=len(labels))
            else:
                metric.update(logits, labels)


def _metrics(stage: str, num_classes: int) -> nn.ModuleDict:
    metrics: dict[str, Metric] = {f"{stage}/loss": MeanMetric(), f"{stage}/accuracy": _accuracy(num_classes, 1)}
    if num_classes > 5:
        metrics[f"{stage}/accuracy_top5"] = _accuracy(num_classes, 5)
    return nn.ModuleDict(metrics)


def _by_name(metrics: nn.ModuleDict) -> dict[str, Metric]:
    return cast(dict[str, Metric], dict(metrics.items()))


def _accuracy(num_classes: int, top_k: int) -> Metric:
    # Validating every batch would take longer than the metric itself; the loss already rejects labels out of range.
    return MulticlassAccuracy(num_classes, top_k=top_k, average="micro", validate_args=False)
