"""Masking of the moving averages that other callbacks keep of the weights."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lightning_sparse._compat import ConfigurationError, Trainer, callbacks_of, is_a
from lightning_sparse.network import SparseNetwork

_AVERAGING = ("WeightAveraging", "StochasticWeightAveraging")


def averages_of(trainer: Trainer) -> list[nn.Module]:
    """Return the averages that Lightning's averaging callbacks keep.

    Raises:
        MisconfigurationException: If an averaging callback doesn't show its average.
    """
    averages: list[nn.Module] = []
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
            averages.append(average.module if is_a(average, "AveragedModel") else average)  # type: ignore[arg-type]  # a module
    return averages


def mask_averages(averages: Iterable[nn.Module], network: SparseNetwork) -> None:
    """Zero the inactive weights in averages.

    Call it whenever masks change: between changes an average of masked weights stays masked.
    """
    for average in averages:
        network.enforce_on(average)
