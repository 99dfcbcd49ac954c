"""The LightningModule that trains an image classifier."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_sparse._compat import LightningModule, LRSchedulerCallable, OptimizerCallable
from lightning_sparse.models.class_counts import check_data_classes, check_logits
from lightning_sparse.models.classifier_arguments import (
    CompileMode,
    check_classifier_options,
    check_parts,
    check_switches,
    make_network,
)
from lightning_sparse.models.cuda_graph import GraphedStep, takes_plain_steps
from lightning_sparse.models.running_mean import RunningMean

Batch = tuple[Tensor, Tensor]


def paper_sgd(params: Any) -> torch.optim.SGD:
    """The optimizer of sparse momentum (Dettmers and Zettlemoyer, 2019, section 4): SGD with Nesterov momentum.

    Args:
        params: Parameters or parameter groups.
    """
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


class ImageClassifier(LightningModule):
    """Trains a network on images with cross-entropy, and reports how often it is right.

    Logs ``train/loss``, ``val/loss``, ``val/accuracy``, ``test/loss`` and ``test/accuracy`` once per epoch,
    each the mean over the images; with more than 5 classes also ``val/accuracy_top5`` and
    ``test/accuracy_top5``. Accuracies are in [0, 1].

    A checkpoint of a run started by LightningCLI holds all arguments. One of a run in Python holds the plain
    ones only, the name of a model among them: give the others again,
    ``ImageClassifier.load_from_checkpoint(path, model=LeNet300100())``.

    Args:
        model: Maps images ``(batch, channels, height, width)`` to logits ``(batch, num_classes)``; or the name of a
            network, such as "wrn-28-2", or the import path of a class or function that makes one, such as
            "torchvision.models.resnet18": what :func:`create_model` takes.
        optimizer: Makes the optimizer from the parameters, such as
            ``functools.partial(torch.optim.SGD, lr=0.1)``. Default: SGD with learning rate 0.1, Nesterov
            momentum 0.9 and weight decay 5e-4.
        lr_scheduler: Makes the learning rate schedule from the optimizer. None: a constant learning rate.
            ``ReduceLROnPlateau`` watches ``val/loss`` and needs ``lr_interval="epoch"``.
        lr_interval: Whether the schedule moves on with each optimizer step or with each epoch.
        num_classes: Number of classes, >= 2, and of the network's outputs. A network that is made by name gets it, too,
            if it takes it. A data module of more classes is refused at setup, one of fewer is warned of.
        model_options: Other arguments of a network that is made by name, ``{"width": 0.5}``: plain Python values, so
            that a checkpoint can hold them.
        channels_last: Whether convolutions keep their weights, and with them their features, with the channels
            innermost: the same mathematics, often faster (1.5 times for LeNet-5-Caffe on a CPU, and usual with 16-bit
            precision on a GPU), with other rounding. See PyTorch's ``torch.channels_last``.
        compile_mode: Compiles the network for training, at the first batch, with this mode of ``torch.compile``, for
            batches of one size: a smaller last batch of an epoch runs as it is written, and so does evaluation (with
            PyTorch before 2.6 they are compiled, too, each by itself). Parameters and checkpoints keep their names;
            rounding is another, and so are the random numbers of dropout. On a GPU, "default" goes well with
            ``cuda_graph``. None: not compiled.
        cuda_graph: Whether a GPU replays forward and backward passes as one CUDA graph, so that small networks need
            not wait for Python: the same numbers, in less time. What Python does in the network's forward pass is not
            repeated: hooks, or a dropout rate that changes during training. ``on_before_zero_grad`` sees the gradients
            of the step that has begun. It does nothing elsewhere, with several processes, accumulated gradients, a
            gradient scaler (fp16), anomaly detection or manual optimization, in a mode of ``torch.compile`` that makes
            graphs of its own ("reduce-overhead", "max-autotune"), or in subclasses with a ``training_step``,
            ``backward`` or ``optimizer_zero_grad`` of their own.

    Raises:
        ValueError: If ``num_classes``, ``lr_interval`` or ``compile_mode`` is outside its range, there is no such name,
            or ``model_options`` don't fit it, aren't plain or come with a module.
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
        check_switches(channels_last=channels_last, cuda_graph=cuda_graph)
        check_parts(model, optimizer, lr_scheduler)
        network = make_network(model, model_options, num_classes)
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler", *([] if isinstance(model, str) else ["model"])])
        if "_instantiator" in self.hparams:
            # LightningCLI built this: it has these three as plain YAML, with which a checkpoint is complete.
            self.save_hyperparameters()
        self.model = network.to(memory_format=torch.channels_last) if channels_last else network
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self.num_classes, self.compile_mode, self.cuda_graph = num_classes, compile_mode, cuda_graph
        self.val_metrics, self.test_metrics = _metrics("val", num_classes), _metrics("test", num_classes)
        self._train_loss = RunningMean()
        self._usual_size: int | None = None  # of training batches
        self._graphed: GraphedStep | None = None
        self._has_gradients = False  # those of this step, before Lightning asks for them

    def setup(self, stage: str) -> None:
        """Compares the number of classes with the data module's, if there is one that tells, and compiles.

        Args:
            stage: "fit", "validate", "test" or "predict", for which labels don't matter.

        Raises:
            ValueError: If the data have more classes.
        """
        # Here, since a copy in another process is not compiled; in place, so that no name changes.
        if self.compile_mode is not None and self.model._compiled_call_impl is None:
            # Not for any size of batch: one that comes once an epoch would slow all others down.
            self.model.compile(mode=self.compile_mode, dynamic=False)
        if stage != "predict":
            check_data_classes(self.trainer.datamodule, self.num_classes)  # type: ignore[attr-defined]  # of a Trainer's connector

    def on_fit_start(self) -> None:
        """Prepares to record a step as a CUDA graph, where that is possible."""
        self._graphed = GraphedStep(self.model, self._loss) if self._can_record() else None

    def teardown(self, stage: str) -> None:
        """Drops the recording of a fit."""
        if stage == "fit":
            self._graphed = None

    def forward(self, images: Tensor) -> Tensor:
        """Maps images ``(batch, channels, height, width)`` to logits ``(batch, num_classes)``."""
        return self.model(images)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the mean cross-entropy of the batch.

        Nothing is logged here: ``self.log`` would add a quarter to the time of a step of a small network.
        """
        images, labels = batch
        # Not in on_train_epoch_start, which is not called for an epoch that follows a resumed last batch.
        if batch_idx == 0:
            self._train_loss.reset()
            if self._graphed is not None:
                self._graphed.look_again()
        is_usual = self._is_of_usual_size(images)
        if self._graphed is not None and is_usual and self._takes_single_steps():
            self._has_gradients = True
            loss = self._graphed(images, labels)
        else:
            if self._has_gradients:  # true still, if a fit was ended within a step
                self._has_gradients = False
            loss = self._loss(images, labels, as_written=not is_usual)
        self._train_loss.add(loss.detach(), labels.shape[0])
        return loss

    # Lightning inspects the signature of training_step at every step; found here, it need not be worked out.
    training_step.__signature__ = inspect.signature(training_step)  # type: ignore[attr-defined]  # functions take attributes

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Computes the gradients, unless a replayed step has."""
        if self._has_gradients:
            self._has_gradients = False
        else:
            super().backward(loss, *args, **kwargs)

    def on_train_epoch_end(self) -> None:
        """Logs ``train/loss``."""
        if self._train_loss.weight > 0:
            self.log("train/loss", self._train_loss.compute(), sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts the batch in."""
        self._evaluate(batch, batch_idx, self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/loss`` and the accuracies."""
        self.log_dict(_by_name(self.val_metrics), prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts the batch in."""
        self._evaluate(batch, batch_idx, self.test_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs ``test/loss`` and the accuracies."""
        self.log_dict(_by_name(self.test_metrics))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the class probabilities ``(batch, num_classes)``; labels in the batch are not looked at."""
        return self._run_as_written(batch[0]).softmax(dim=1)

    def configure_optimizers(self) -> Any:
        """Makes the optimizer and, if there is one, the schedule."""
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
        """Keeps the sum of this epoch's losses so far."""
        checkpoint["train_loss"] = self._train_loss.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the sum of the epoch's losses."""
        if "train_loss" in checkpoint:
            self._train_loss.load_state_dict(checkpoint["train_loss"])

    # What Lightning and PyTorch do around the two below would take a twentieth of a step of LeNet-300-100.

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Drops the gradients of the step before; a replayed step has done so."""
        if self._has_gradients:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the current hook some 40 times per step, and nn.Module looks long at each value.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def _is_of_usual_size(self, images: Tensor) -> bool:
        """Tell whether it is worth compiling or recording for a training batch, not a last one of another size."""
        if (self.compile_mode is None and self._graphed is None) or self._trainer is None:
            return True
        if not self.trainer.is_last_batch or self.trainer.num_training_batches == 1:
            self._usual_size = len(images)
        return len(images) == self._usual_size

    def _can_record(self) -> bool:
        """Tell whether a recording is wanted and possible, and nothing is done with a step that it would not do."""
        if not self.cuda_graph or not takes_plain_steps(self.trainer) or not self.automatic_optimization:
            return False
        names = ("training_step", "backward", "optimizer_zero_grad")
        is_ours = all(getattr(type(self), name) is getattr(ImageClassifier, name) for name in names)
        is_compiled = hasattr(self.model, "_orig_mod") or self.model._compiled_call_impl is not None
        is_compiled_elsewhere = self.compile_mode is None and is_compiled
        makes_graphs = self.compile_mode in ("reduce-overhead", "max-autotune")
        return is_ours and not makes_graphs and not is_compiled_elsewhere

    def _takes_single_steps(self) -> bool:
        """Tell whether the batch has a step of its own, as it may not from one epoch to the next, and after a fit."""
        is_step = self.trainer.training and self.trainer.accumulate_grad_batches == 1
        return is_step and not torch.is_anomaly_enabled()

    def _loss(self, images: Tensor, labels: Tensor, *, as_written: bool = False) -> Tensor:
        logits = self._run_as_written(images) if as_written else self.model(images)
        check_logits(logits, self.num_classes)
        return cross_entropy(logits, labels)

    def _run_as_written(self, images: Tensor) -> Tensor:
        """Return the logits of a network that is not to be compiled for these images, be it compiled for others."""
        # PyTorch before 2.6 can't; and importing its compiler takes seconds.
        can_choose = self.compile_mode is not None and hasattr(torch.compiler, "set_stance")
        with torch.compiler.set_stance("force_eager") if can_choose else nullcontext():
            return self.model(images)  # type: ignore[no-any-return]  # as in forward

    def _evaluate(self, batch: Batch, batch_idx: int, metrics: nn.ModuleDict) -> None:
        images, labels = batch
        logits = self._run_as_written(images)
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
    # Checking every batch would take longer than counting it; the loss already refuses labels out of range.
    return MulticlassAccuracy(num_classes, top_k=top_k, average="micro", validate_args=False)
