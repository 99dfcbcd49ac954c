"""Moving averages that other callbacks keep of the weights: masked, and, until they begin, the weights themselves."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import torch
from torch import nn

from lightning_sparse._compat import Callback, ConfigurationError, Trainer, callbacks_of, is_a
from lightning_sparse.network import SparseNetwork
from lightning_sparse.selection.patterns import name_list

_AVERAGING = ("WeightAveraging", "StochasticWeightAveraging")


class Average(NamedTuple):
    """An average of the weights, and the callback that keeps it."""

    callback: Callback
    model: nn.Module

    @property
    def has_begun(self) -> bool:
        """Whether something was averaged yet; until then it is a copy from before training."""
        kept = self.callback._average_model  # type: ignore[attr-defined]  # it has one, see `averages_of`
        counts = [
            getattr(kept, "n_averaged", None),  # of PyTorch's AveragedModel
            getattr(self.callback, "n_averaged", None),  # of StochasticWeightAveraging; after a resume it has the next
            getattr(self.callback, "_init_n_averaged", None),
        ]
        known = [int(count) for count in counts if count is not None]
        return not known or max(known) > 0


def averages_of(trainer: Trainer) -> list[Average]:
    """Return the averages that Lightning's averaging callbacks keep.

    Raises:
        MisconfigurationException: If an averaging callback doesn't show its average.
    """
    averages = []
    for callback in callbacks_of(trainer):
        if is_a(callback, *_AVERAGING):
            average = getattr(callback, "_average_model", None)
            if not isinstance(average, nn.Module):
                raise ConfigurationError(
                    expected=f"{type(callback).__name__} to keep its average in _average_model, as Lightning 2.6 does",
                    got=repr(average),
                    cure=(
                        "put it before the sparse callback, or call enforce_on() of the callback's network "
                        "yourself, on every update"
                    ),
                )
            # PyTorch's AveragedModel wraps what it averages.
            model = average.module if is_a(average, "AveragedModel") else average
            averages.append(Average(callback, model))  # type: ignore[arg-type]  # a module
    return averages


def mask_averages(averages: Iterable[Average], network: SparseNetwork) -> None:
    """Zero the inactive weights in averages.

    Call it whenever masks change: between changes an average of masked weights stays masked. One that has not begun
    would lose weights at every change and never get others: it is given the weights instead.
    """
    for average in averages:
        if average.has_begun:
            network.enforce_on(average.model)
        else:
            _copy_weights(network.model, average.model)


def follow_weights(averages: Iterable[Average], network: SparseNetwork) -> None:
    """Copy the weights to averages that have not begun, before these are validated, saved or left as the result."""
    for average in averages:
        if not average.has_begun:
            _copy_weights(network.model, average.model)


@torch.no_grad()
def _copy_weights(model: nn.Module, copy: nn.Module) -> None:
    copies = dict(chain(copy.named_parameters(), copy.named_buffers()))
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if name in copies and copies[name].shape == tensor.shape:
            copies[name].copy_(tensor)


def warn_of_unbegun(trainer: Trainer, averages: Iterable[Average]) -> None:
    """Warn, when training ends, of averages that have not begun."""
    names = [type(average.callback).__name__ for average in averages if not average.has_begun]
    if names and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # not declared
        warnings.warn(
            f"Expected the average of {name_list(names)} to begin before training ends; got none after "
            f"{trainer.current_epoch} epochs and {trainer.global_step} steps: the weights stay as they were trained. "
            "Cure: let it start earlier, or train longer.",
            stacklevel=2,
        )
