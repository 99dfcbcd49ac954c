"""Training runs with a sparse callback: factories, counts of weights, copies of states."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse._compat import Callback, LightningModule, ModelCheckpoint, Trainer, without_messages
from lightning_sparse.callbacks import SparseTrainingCallback
from lightning_sparse.callbacks.sparse_training.checkpointing import network_or_none
from lightning_sparse.network.steps.hooks import watchers_of as observers_of
from lightning_sparse.testing.callbacks.training import ShufflingLoader, TinyModule, fit
from lightning_sparse.testing.contract import expect
from lightning_sparse.testing.randomness import seeded

Factory = Callable[..., SparseTrainingCallback]

DENSITY = 0.3
# Two steps an epoch, three epochs: updates after the second and the fourth step by default.
BATCHES = 2

MOMENTS: dict[str, dict[str, Any]] = {
    "step": {"every_n_train_steps": 1},
    "validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    # The mode has no effect here, but makes the keys of the checkpoint callbacks' states differ.
    "epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True, "mode": "max"},
}


def takes_density(factory: Factory) -> bool:
    """Return whether a factory takes a density.

    >>> takes_density(SparseTrainingCallback), takes_density(partial(SparseTrainingCallback, density=0.1))
    (True, False)
    """
    if isinstance(factory, partial) and "density" in factory.keywords:
        return False
    parameters = inspect.signature(factory).parameters.values()
    return any(parameter.name == "density" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def new(factory: Factory) -> SparseTrainingCallback:
    """Return a new callback, with the density 0.3 if the factory takes one.

    Raises:
        AssertionError: If it isn't a SparseTrainingCallback.
    """
    callback: object = factory(density=DENSITY) if takes_density(factory) else factory()
    expect(
        isinstance(callback, SparseTrainingCallback),
        "a factory that returns a new SparseTrainingCallback",
        repr(callback),
        "pass the class, or a function without arguments that makes the callback",
    )
    return callback  # type: ignore[return-value]  # checked above


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's remarks on short runs, and have the same global seed in each run."""
    with without_messages(), seeded(0):
        yield


def train(*callbacks: Callback, module: LightningModule | None = None, **options: Any) -> Trainer:
    """Train for three epochs of two steps if not told otherwise, in silence, and return the trainer."""
    options.setdefault("loader", ShufflingLoader(BATCHES))
    with quiet():
        return fit(*callbacks, module=TinyModule() if module is None else module, **options)


def masks_of(callback: SparseTrainingCallback) -> dict[str, Tensor]:
    """Return the callback's masks."""
    network = network_or_none(callback)
    expect(network is not None, "a network while and after fit", None, "call super().on_fit_start")
    return {} if network is None else network.masks


def stray_weights(callback: SparseTrainingCallback, module: nn.Module) -> dict[str, int]:
    """Return, for each layer that has any, the number of inactive weights that are not zero."""
    counts = {
        name: int(torch.count_nonzero(module.get_parameter(name)[~mask])) for name, mask in masks_of(callback).items()
    }
    return {name: count for name, count in counts.items() if count}


def active_weights(callback: SparseTrainingCallback) -> int:
    """Return the number of active weights, counted in the masks."""
    return sum(int(torch.count_nonzero(mask)) for mask in masks_of(callback).values())


def everything(run: Trainer, callback: SparseTrainingCallback) -> dict[str, Any]:
    """Return copies of the state in which a resumed run must equal an uninterrupted one."""
    return {
        "weights": {name: values.clone() for name, values in run.lightning_module.state_dict().items()},
        "optimizers": [optimizer.state_dict()["state"] for optimizer in run.optimizers],
        "callback": callback.state_dict(),
        "progress": {"epoch": run.current_epoch, "step": run.global_step},
    }


def watchers_of(run: Trainer) -> int:
    """Return the number of networks that observe the steps of a trainer's optimizers."""
    return len(observers_of(run.optimizers))


def saving_everywhere(folder: Path) -> list[ModelCheckpoint]:
    """Save after every step, after every validation and after every epoch."""
    return [
        ModelCheckpoint(folder / moment, filename="{step}", save_top_k=-1, **options)
        for moment, options in MOMENTS.items()
    ]


def saved(folder: Path) -> dict[str, str]:
    """Return the checkpoints below a folder by moment and step."""
    return {f"{path.parent.name} {path.stem}": str(path) for path in sorted(folder.rglob("*.ckpt"))}
