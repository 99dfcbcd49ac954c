"""Gradients over a fixed set of batches, at any moment of a run, without touching the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler

from lightning_sparse._compat import LightningModule, Trainer, isolate_rng
from lightning_sparse.callbacks.probing.evaluation_batches import places_of
from lightning_sparse.callbacks.probing.forward_pass import transfer_batch
from lightning_sparse.callbacks.probing.isolation import not_compiled
from lightning_sparse.callbacks.probing.module_copy import detached_copy
from lightning_sparse.selection.patterns import plain_name
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

Loss = Callable[[LightningModule, Any], Tensor]


class GradientProbe:
    """Takes gradients of the mean loss over some batches on a copy of the model, in its modes of training.

    The copy has the run's weights and its own everything else, so that statistics of normalization layers, metrics,
    gradients and random state of the run stay as they are. What is random in the model (dropout) is the same every
    time. Nothing runs compiled, but before PyTorch 2.6 functions outside the module.

    Args:
        batches: As the training loader gives them; they go through the module's hooks and to its device like those.
        loss: Returns the loss of a batch; default: what ``training_step`` returns.
        seed: Of what is random in the model.
    """

    def __init__(self, batches: list[Any], loss: Loss | None, seed: int) -> None:
        self._batches, self._loss, self._seed = batches, loss, seed

    def gradients(self, trainer: Trainer, module: LightningModule, names: Sequence[str]) -> list[Tensor]:
        """Return the gradients of the mean loss over all processes' batches; zeros for weights that it doesn't reach.

        Of weights that PyTorch prunes it is the gradient of the effective weight, and not masked.

        Args:
            trainer: Of the run.
            module: The module of the run.
            names: Of parameters, without what wrappers add, or of weights that PyTorch prunes.

        Raises:
            TypeError: If there is no scalar loss, or the module can't be copied.
        """
        with isolate_rng(), not_compiled():
            torch.manual_seed(self._seed)
            shadow = detached_copy(trainer, module)
            scale = _scale(trainer, module)
            for index, batch in enumerate(self._batches):
                batch = transfer_batch(trainer, shadow, batch)
                with torch.enable_grad(), trainer.precision_plugin.forward_context():
                    loss = self._loss_of(shadow, batch, index)
                torch.autograd.backward(loss * scale / len(self._batches))
            named = shadow.named_parameters(remove_duplicate=False)
            parameters = {plain_name(name): parameter for name, parameter in named}
            return [_mean(trainer, parameters[name]) / scale for name in names]

    def _loss_of(self, shadow: LightningModule, batch: Any, index: int) -> Tensor:
        found = _step(shadow, batch, index) if self._loss is None else self._loss(shadow, batch)
        loss = found.get("loss") if isinstance(found, Mapping) else found
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise InvalidTypeError(
                expected="the loss of a batch as a scalar tensor with a gradient",
                got=repr(found),
                cure=(
                    "pass loss=, a function of module and batch that returns it, or measure on training "
                    "batches (batches=None)"
                ),
            )
        return loss


def _step(shadow: LightningModule, batch: Any, index: int) -> Any:
    try:
        signature(shadow.training_step).bind(batch, index)
    except TypeError:  # the index may be left out
        return shadow.training_step(batch)
    return shadow.training_step(batch, index)


def _scale(trainer: Trainer, module: LightningModule) -> Tensor | float:
    """Return what small gradients are multiplied with, so that half precision doesn't lose them."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return 1.0
    scale: Tensor = scaler.scale(torch.ones((), device=module.device))
    return scale


def _mean(trainer: Trainer, parameter: nn.Parameter) -> Tensor:
    # All processes wait for each other here, also those whose batches don't need the parameter.
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    mean: Tensor = trainer.strategy.reduce(gradient, reduce_op="mean")
    return mean.detach()


def draw_batches(loader: object, count: int, seed: int) -> list[Any]:
    """Return some batches of a training loader, always the same ones for a seed, without moving the loader on.

    Args:
        loader: A `DataLoader` over a data set that can be indexed, or a loader with a method ``from_start``, as ours.
            Of the former, what a `SubsetRandomSampler` leaves out is not drawn.
        count: How many.
        seed: Determines which, where the loader has no seed of its own, and what is random in the data set.

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
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or not loader.batch_size:
        raise InvalidTypeError(
            expected="a DataLoader over a data set with indices to draw batches from",
            got=f"a {type(loader).__name__}",
            cure="pass the batches themselves, in a list",
        )
    generator = torch.Generator().manual_seed(seed)
    sampler = SubsetRandomSampler(places_of(loader), generator)
    return iter(
        DataLoader(
            loader.dataset, loader.batch_size, sampler=sampler, collate_fn=loader.collate_fn, generator=generator
        )
    )


def make_probe(
    trainer: Trainer, module: LightningModule, batches: int | list[Any], loss: Loss | None, seed: int
) -> GradientProbe:
    """Return what takes the gradients of a run.

    Args:
        trainer: Of the run, at its start.
        module: The module of the run.
        batches: How many to draw from the training data, or the batches.
        loss: As `GradientProbe` takes it.
        seed: Of the choice of batches, and as `GradientProbe` takes it.

    Raises:
        ValueError: If the weights are split over processes, or nothing says what the loss is.
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
    """Return what a user gave as batches, checked.

    Raises:
        ValueError: If it is a number below 1, or there are none.
    """
    if batches is None:
        return None
    given = batches if isinstance(batches, int) else list(batches)
    if isinstance(given, bool) or (given if isinstance(given, int) else len(given)) < 1:
        raise InvalidValueError(
            expected="at least one batch",
            got=repr(batches),
            cure="None measures on training batches",
        )
    return given


def is_copyable(module: nn.Module) -> bool:
    """Tell whether a model is whole on this process, so that a copy of it can be used alone."""
    return not any(type(parameter).__name__ == "DTensor" for parameter in module.parameters())
