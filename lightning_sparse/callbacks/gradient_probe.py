"""Gradients over a fixed set of batches, at any moment of a run, without touching the run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader

from lightning_sparse._compat import LightningModule, Trainer, isolate_rng

Loss = Callable[[LightningModule, Any], Tensor]


class GradientProbe:
    """Takes gradients of the mean loss over some batches on a copy of the model, in training mode.

    The copy has the run's weights and its own everything else, so that statistics of normalization layers, metrics,
    gradients and random state of the run stay as they are. What is random in the model (dropout) is the same every
    time.

    Args:
        batches: As the Trainer hands them to ``training_step``, but wherever they are.
        loss: Returns the loss of a batch; default: what ``training_step`` returns.
        seed: Of what is random in the model.
    """

    def __init__(self, batches: list[Any], loss: Loss | None, seed: int) -> None:
        self._batches, self._loss, self._seed = batches, loss, seed

    def gradients(self, trainer: Trainer, module: LightningModule) -> dict[str, Tensor | None]:
        """Return the gradient of the mean loss by parameter name, over all processes' batches.

        Of weights that PyTorch prunes it is the gradient of the effective weight, by the name of that, and not masked.

        Raises:
            TypeError: If there is no scalar loss.
        """
        with isolate_rng(), warnings.catch_warnings():
            # The copy is in no Trainer, to which `self.log` would go.
            warnings.filterwarnings("ignore", message="You are trying to `self.log..` but the `self.trainer` reference")
            torch.manual_seed(self._seed)
            shadow = _copy(module)
            for index, batch in enumerate(self._batches):
                batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
                with torch.enable_grad(), trainer.precision_plugin.forward_context():
                    loss = self._loss_of(shadow, batch, index)
                torch.autograd.backward(loss / len(self._batches))
            return {name: _mean(trainer, parameter.grad) for name, parameter in shadow.named_parameters()}

    def _loss_of(self, shadow: LightningModule, batch: Any, index: int) -> Tensor:
        found = shadow.training_step(batch, index) if self._loss is None else self._loss(shadow, batch)
        loss = found.get("loss") if isinstance(found, dict) else found
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise TypeError(
                f"Expected the loss of a batch as a scalar tensor with a gradient; got {found!r}. Cure: pass loss=, a "
                "function of module and batch that returns it, or measure on training batches (batches=None)."
            )
        return loss


def _copy(module: LightningModule) -> LightningModule:
    # Weights that PyTorch prunes are computed from others, which can't be copied but needn't.
    computed = {id(value): None for layer in module.modules() for value in vars(layer).values() if _is_computed(value)}
    shadow = copy.deepcopy(module, dict(computed))
    shadow.zero_grad(set_to_none=True)
    shadow.train()
    for _, layer in list(shadow.named_modules()):
        for hook in list(layer._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(layer, hook._tensor_name)  # type: ignore[no-untyped-call]  # PyTorch's
    return shadow


def _is_computed(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf


def _mean(trainer: Trainer, gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else trainer.strategy.reduce(gradient, reduce_op="mean")


def draw_batches(loader: object, count: int, seed: int) -> list[Any]:
    """Return some batches of a training loader, always the same ones for a seed, without moving the loader on.

    Args:
        loader: A `DataLoader` over a data set that can be indexed, or a loader with a method ``from_start``, as ours.
        count: How many.
        seed: Determines which, where the loader has no seed of its own, and what is random in the data set.

    Raises:
        TypeError: If batches can't be taken from the loader without disturbing it.
    """
    with isolate_rng():
        torch.manual_seed(seed)
        batches = list(islice(_iterate(loader, seed), count))
    if len(batches) < count:
        raise ValueError(f"Expected {count} batches; got {len(batches)} from the loader. Cure: ask for fewer.")
    return batches


def _iterate(loader: object, seed: int) -> Iterator[Any]:
    if callable(from_start := getattr(loader, "from_start", None)):
        first: Iterator[Any] = iter(from_start())
        return first
    indexed = isinstance(loader, DataLoader) and hasattr(loader.dataset, "__getitem__") and loader.batch_size
    if not indexed:
        raise TypeError(
            f"Expected a DataLoader over a data set with indices to draw batches from; got a {type(loader).__name__}. "
            "Cure: pass the batches themselves, in a list."
        )
    assert isinstance(loader, DataLoader)  # see above
    return iter(
        DataLoader(
            loader.dataset,
            loader.batch_size,
            shuffle=True,
            collate_fn=loader.collate_fn,
            generator=torch.Generator().manual_seed(seed),
        )
    )


def as_batches(batches: int | Iterable[Any] | None) -> int | list[Any] | None:
    """Return what a user gave as batches, checked.

    Raises:
        ValueError: If it is a number below 1, or there are none.
    """
    if batches is None:
        return None
    given = batches if isinstance(batches, int) else list(batches)
    if isinstance(given, bool) or (given if isinstance(given, int) else len(given)) < 1:
        raise ValueError(f"Expected at least one batch; got {batches!r}. Cure: None measures on training batches.")
    return given


def is_copyable(module: nn.Module) -> bool:
    """Tell whether a model is whole on this process, so that a copy of it can be used alone."""
    return not any(type(parameter).__name__ == "DTensor" for parameter in module.parameters())
