"""The global random states in checkpoints, so that a resumed run draws the same numbers as an uninterrupted one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from lightning_sparse._compat import Callback, LightningModule, Trainer
from lightning_sparse.callbacks.probing.state_key import StateKey
from lightning_sparse.network.state import verify_checksum, with_checksum
from lightning_sparse.validation.representation import ShowsOptions


class RandomStateCallback(ShowsOptions, Callback):
    """Save the global random states of PyTorch, Python and NumPy in checkpoints, and resume from them.

    Lightning doesn't: in a resumed run, dropout and other random draws start over from the seed. With this callback
    they are the draws of a run that was not interrupted. The states are those of rank zero; the other ranks resume from
    them too, as all processes of a run begin with the same seed.

    PyTorch's ``DataLoader`` draws from the global state when an epoch begins: its order if it shuffles, and its
    workers' seeds. A run resumed at the start of an epoch draws the same numbers. A run resumed in the middle of an
    epoch starts that epoch again, in another order, as Lightning does without this callback; a loader with a
    ``generator`` of its own starts that generator again. After a checkpoint that was saved between an epoch's last step
    and its validation, Lightning skips that validation and the draws of its loader: give the loader a ``generator``.
    Persistent workers are new processes after a resume, whose states this callback can't save.
    """

    def __init__(self) -> None:
        super().__init__()
        self._device: torch.device | None = None
        self._saved: dict[str, Any] | None = None

    @StateKey
    def state_key(self) -> str:
        """Name of the state in checkpoints: that of the class."""
        return type(self).__qualname__

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the device that the module will be on."""
        self._device, self._saved = trainer.strategy.root_device, None

    def state_dict(self) -> dict[str, Any]:
        """Return the present states, or those to resume from that were not used yet, as plain values and tensors."""
        if self._saved is not None:
            return with_checksum({"states": self._saved})
        device = self._device
        states = host_states()
        if device is not None and device.type == "cuda":
            states["device"] = torch.cuda.get_rng_state(device)
        elif device is not None and device.type == "mps":
            states["device"] = torch.mps.get_rng_state()
        return with_checksum({"states": states})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold the states until training starts, since there may be draws before.

        Raises:
            ValueError: If the states are damaged.
        """
        verify_checksum(state_dict, {"states"}, "a run with this callback")
        self._saved = state_dict["states"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the saved states, if the run is resumed."""
        if self._saved is None:
            return
        set_host_states(self._saved)
        state, device = self._saved.get("device"), trainer.strategy.root_device
        if state is not None and device.type == "cuda":  # a run may be resumed on another kind of device
            torch.cuda.set_rng_state(state, device)
        elif state is not None and device.type == "mps":
            torch.mps.set_rng_state(state)
        if _begins_epoch(trainer) and _all_draw(trainer):
            # The fetcher has begun the epoch already, in `setup_data`, from another state.
            iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]  # there is one while a Trainer fits

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Let go of the saved states: a checkpoint from now on has the present ones."""
        self._saved = None


def _begins_epoch(trainer: Trainer) -> bool:
    loop = trainer.fit_loop
    return not loop.restarted_mid_epoch or loop.epoch_loop.batch_progress.is_last_batch


def _all_draw(trainer: Trainer) -> bool:
    """Tell whether all training loaders draw from the global state; others may advance if an epoch begins twice."""
    loaders = trainer.fit_loop._combined_loader
    return loaders is not None and all(
        isinstance(loader, DataLoader) and loader.generator is None for loader in loaders.flattened
    )


def host_states() -> dict[str, Any]:
    """Return the random states of Python, NumPy and PyTorch on the CPU, as plain values and tensors.

    Lightning's collection has NumPy arrays in it, which `torch.load(weights_only=True)` refuses.
    """
    version, words, gauss = random.getstate()
    kind, numbers, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # the state that the user's code draws from
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(numbers, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }


def set_host_states(states: dict[str, Any]) -> None:
    """Restore the states that `host_states` returned."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, numbers, *rest = states["numpy"]
    np.random.set_state((kind, numbers.numpy().astype(np.uint32), *rest))  # noqa: NPY002  # as above
    torch.set_rng_state(states["torch"])
