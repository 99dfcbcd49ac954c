"""Checks that a run's strategy and other callbacks are compatible with training or measuring whole weights."""

from __future__ import annotations

import warnings

import torch

from lightning_sparse._compat import Callback, ConfigurationError, Trainer, callbacks_of, is_a

# Strategies that flatten or partition the weights, and step a copy that no mask reaches.
_UNSUPPORTED = {
    "FSDPStrategy": "flattens the weights of several layers into one parameter",
    "DeepSpeedStrategy": "keeps and steps partitioned copies of the weights",
}


def check_strategy(trainer: Trainer) -> None:
    """Refuse strategies under which the number of active weights can't be exact.

    Raises:
        MisconfigurationException: Under FSDP (version 1) and DeepSpeed.
    """
    for name, reason in _UNSUPPORTED.items():
        if is_a(trainer.strategy, name):
            raise ConfigurationError(
                expected="a strategy that leaves each weight a parameter of its own",
                got=f"{name}, which {reason}",
                cure="strategy='ddp', or ModelParallelStrategy with fully_shard (FSDP2) in configure_model to shard",
            )


# Strategies whose modules compute in all processes at once, or only inside their wrappers.
_SPLITTING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


def check_whole(trainer: Trainer) -> None:
    """Refuse strategies under which a process can't run the whole module alone.

    Raises:
        MisconfigurationException: If the strategy splits modules, or the processes have no way to add up their results.
    """
    name = type(trainer.strategy).__name__
    if is_a(trainer.strategy, *_SPLITTING):
        raise ConfigurationError(
            expected="a strategy with the whole module in every process",
            got=name,
            cure="strategy='ddp', or measure the trained network on one device, with trainer.test",
        )
    if trainer.world_size > 1 and not torch.distributed.is_initialized():
        raise ConfigurationError(
            expected="processes that communicate through torch.distributed",
            got=name,
            cure="strategy='ddp', or measure the trained network in one process, with trainer.test",
        )


def warn_of_averages(trainer: Trainer, callback: Callback) -> None:
    """Warn of callbacks behind this one that change weights when training ends."""
    callbacks = callbacks_of(trainer)
    behind = callbacks[callbacks.index(callback) + 1 :]
    averaging = [other for other in behind if is_a(other, "WeightAveraging", "StochasticWeightAveraging")]
    if averaging and trainer.is_global_zero:
        warnings.warn(
            f"Expected callbacks that average weights before {type(callback).__name__}, which measures them; got "
            f"{type(averaging[0]).__name__} behind it. Cure: put it first in the list of callbacks.",
            stacklevel=2,
        )
