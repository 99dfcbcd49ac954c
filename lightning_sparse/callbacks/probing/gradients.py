"""Gradients of the mean loss over fixed batches in the middle of a run, without changing the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler

from lightning_sparse._compat import LightningModule, Trainer, isolate_rng
from lightning_sparse.callbacks.probing.drawn_samples import batch_size_of, drawn_samples
from lightning_sparse.callbacks.probing.forward_pass import transfer_batch
from lightning_sparse.callbacks.probing.isolation import not_compiled
from lightning_sparse.callbacks.probing.module_copy import detached_copy
from lightning_sparse.selection.names import named_parameters
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

Loss = Callable[[LightningModule, Any], Tensor]


class GradientProbe:
    """Compute gradients of the mean loss over fixed batches, on a copy of the model in the same training modes.

    The copy has the run's weights and a state of its own, so that batch statistics, metrics, gradients and random
    states of the run don't change. Dropout draws the same numbers every time. The copy is not compiled; before PyTorch
    2.6, compiled functions outside the module are.

    Args:
        batches: Batches as the training loader returns them, before the module's hooks and the transfer to its device.
        loss: Function of module and batch that returns the loss; default: the loss that ``training_step`` returns.
        seed: Seed for dropout and other random draws of the model.
    """

    def __init__(self, batches: list[Any], loss: Loss | None, seed: int) -> None:
        self._batches, self._loss, self._seed = batches, loss, seed

    def gradients(self, trainer: Trainer, module: LightningModule, names: Sequence[str]) -> list[Tensor]:
        """Return the gradients of the mean loss over all processes' batches; zeros for weights that it doesn't reach.

        For weights that PyTorch prunes it is the gradient of the effective weight, unmasked.

        Args:
            trainer: Trainer of the run.
            module: Module of the run.
            names: Names of parameters, without what wrappers add, or of weights that PyTorch prunes.

        Raises:
            TypeError: If there is no scalar loss, or the module can't be copied.
        """
        with isolate_rng(), not_compiled():
            torch.manual_seed(self._seed)
            model_copy = detached_copy(trainer, module)
            scale = _scale(trainer, module)
            for index, batch in enumerate(self._batches):
                batch = transfer_batch(trainer, model_copy, batch)
                with torch.enable_grad(), trainer.precision_plugin.forward_context():
                    loss = self._loss_of(model_copy, batch, index)
                torch.autograd.backward(loss * scale / len(self._batches))
            parameters = dict(named_parameters(model_copy, remove_duplicate=False))
            return [_mean(trainer, parameters[name]) / scale for name in names]

    def _loss_of(self, model_copy: LightningModule, batch: Any, index: int) -> Tensor:
        output = _step(model_copy, batch, index) if self._loss is None else self._loss(model_copy, batch)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise InvalidTypeError(
                expected="the loss of a batch as a scalar tensor with a gradient",
                got=repr(output),
                cure=(
                    "pass loss=, a function of module and batch that returns the loss, or measure on training "
                    "batches (batches=None)"
                ),
            )
        return loss


def _step(model_copy: LightningModule, batch: Any, index: int) -> Any:
    try:
        signature(model_copy.training_step).bind(batch, index)
    except TypeError:  # the index may be left out
        return model_copy.training_step(batch)
    return model_copy.training_step(batch, index)


def _scale(trainer: Trainer, module: LightningModule) -> Tensor | float:
    """Return the scale of the run's gradient scaler, by which small gradients survive half precision; else 1."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return 1.0
    scale: Tensor = scaler.scale(torch.ones((), device=module.device))
    return scale


def _mean(trainer: Trainer, parameter: nn.Parameter) -> Tensor:
    # All processes communicate here, also those whose batches don't need the parameter.
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    mean: Tensor = trainer.strategy.reduce(gradient, reduce_op="mean")
    return mean.detach()


def draw_batches(loader: object, count: int, seed: int) -> list[Any]:
    """Return batches of a training loader, always the same ones for a seed, without advancing the loader.

    Args:
        loader: `DataLoader` over a data set that can be indexed, or a loader with a method ``from_start``, as ours.
            Samples that its sampler doesn't draw are not drawn here either.
        count: Number of batches.
        seed: Seed for choosing the batches, unless the loader has its own, and for random draws of the data set.

    Raises:
        TypeError: If batches can't be taken from the loader without disturbing it.
    """
    with isolate_rng():
        torch.manual_seed(seed)
        batches = list(islice(_iterate(loader, seed), count))
    if len(batches) < count:
        raise InvalidValueError(
            expected=f"{count} batches",
            got=f"{len(batches)} from the loader",
            cure="ask for fewer",
        )
    return batches


def _iterate(loader: object, seed: int) -> Iterator[Any]:
    if callable(from_start := getattr(loader, "from_start", None)):
        first: Iterator[Any] = iter(from_start())
        return first
    is_indexed = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    if not isinstance(loader, DataLoader) or not is_indexed or batch_size_of(loader) is None:
        raise InvalidTypeError(
            expected="a DataLoader over a data set with indices to draw batches from",
            got=f"a {type(loader).__name__}",
            cure="pass the batches themselves, in a list",
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = drawn_samples(loader)
    options: dict[str, Any] = {"collate_fn": loader.collate_fn, "generator": generator}
    if drawn.batches is not None:
        order = torch.randperm(len(drawn.batches), generator=generator).tolist()
        return iter(DataLoader(loader.dataset, batch_sampler=[drawn.batches[index] for index in order], **options))
    sampler = SubsetRandomSampler(drawn.keys, generator)
    return iter(DataLoader(loader.dataset, batch_size_of(loader), sampler=sampler, **options))


def make_probe(
    trainer: Trainer, module: LightningModule, batches: int | list[Any], loss: Loss | None, seed: int
) -> GradientProbe:
    """Return a probe of a run's gradients.

    Args:
        trainer: Trainer of the run, at its start.
        module: Module of the run.
        batches: Number of batches to draw from the training data, or the batches.
        loss: Function of module and batch that returns the loss; None for that of ``training_step``.
        seed: Seed for drawing batches and for the model's random draws.

    Raises:
        ValueError: If the weights are split over processes, or the loss is unknown.
        TypeError: If no batches can be drawn from the training data.
    """
    if not is_copyable(module):
        raise InvalidValueError(
            expected="a model that is whole on every process for fixed batches",
            got=f"{type(module).__name__}, whose weights are split over processes",
            cure="measure on training batches (batches=None)",
        )
    if loss is None and not module.automatic_optimization:
        raise InvalidValueError(
            expected="a loss function for fixed batches in manual optimization",
            got=f"none for {type(module).__name__}",
            cure="pass loss=, a function of module and batch that returns the loss",
        )
    drawn = draw_batches(trainer.train_dataloader, batches, seed) if isinstance(batches, int) else batches
    return GradientProbe(drawn, loss, seed)


def as_batches(batches: int | Iterable[Any] | None) -> int | list[Any] | None:
    """Return the option `batches` as a number or a list, checked.

    Raises:
        ValueError: If it is a number below 1, or there are none.
    """
    if batches is None:
        return None
    checked = batches if isinstance(batches, int) else list(batches)
    if isinstance(checked, bool) or (checked if isinstance(checked, int) else len(checked)) < 1:
        raise InvalidValueError(
            expected="at least one batch",
            got=repr(batches),
            cure="None measures on training batches",
        )
    return checked


def is_copyable(module: nn.Module) -> bool:
    """Tell whether this process has all of a model's weights, so that a copy works without other processes."""
    return not any(type(parameter).__name__ == "DTensor" for parameter in module.parameters())
