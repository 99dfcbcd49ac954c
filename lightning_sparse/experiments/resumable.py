"""Trains one run so that it resumes from its last checkpoint, alone in its folder; shared by all training processes."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout

from lightning_sparse._compat import (
    Callback,
    LightningDataModule,
    LightningModule,
    ModelCheckpoint,
    Trainer,
)
from lightning_sparse._version import __version__
from lightning_sparse.callbacks import RandomStateCallback
from lightning_sparse.data.locking import exclusive
from lightning_sparse.experiments.engine.lifeline import LIFELINE, end_with_parent
from lightning_sparse.experiments.engine.orders import Training
from lightning_sparse.experiments.engine.supervision import LOCK, RUN_ELSEWHERE
from lightning_sparse.experiments.engine.writing import write_atomically
from lightning_sparse.topology.layer import NonFiniteError
from lightning_sparse.validation.errors import InvalidStateError

# An interrupted run loses this number of seconds at most; the environment variable has another number.
_SAVE_EVERY, _SAVE_EVERY_VARIABLE = 120.0, "LIGHTNING_SPARSE_SAVE_SECONDS"


class Progress(Callback):
    """Writes the progress of a run to a file, and adds up its time across interruptions.

    Args:
        file: File for two numbers: completed epochs and all epochs.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before, self._start = {"cpu_seconds": 0.0, "seconds": 0.0}, _clocks()

    @property
    def times(self) -> dict[str, float]:
        """CPU time of this process and wall-clock time so far, in seconds."""
        return {name: self._before[name] + now - self._start[name] for name, now in _clocks().items()}

    def state_dict(self) -> dict[str, float]:
        """Return the times so far."""
        return self.times

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Add the times before an interruption."""
        self._before, self._start = {**self._before, **state_dict}, _clocks()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch at which training starts or resumes."""
        self._write(trainer, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the number of completed epochs."""
        self._write(trainer, trainer.current_epoch + 1)

    def _write(self, trainer: Trainer, epochs: int) -> None:
        if trainer.is_global_zero:
            self._file.write_text(f"{epochs} {trainer.max_epochs}")


class StopAfter(Callback):
    """Ends a training after a number of epochs, so that it can be continued from a checkpoint as if it had not ended.

    Args:
        epochs: Number of epochs.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lower the Trainer's limit, once all have read it who plan by the length of the whole run."""
        # Not should_stop at an epoch's end: a run that resumes between the last step of an epoch and its end has none.
        trainer.fit_loop.max_epochs = self.epochs


class _Saver(ModelCheckpoint):
    """Saves one checkpoint of a run at intervals of time."""

    # Lightning asks for the key at every hook, six times a step; ModelCheckpoint would format its options each time.
    state_key = "Saver"

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is one file, whose name is known; a longer training has another folder."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, also with the state of earlier versions."""


def _clocks() -> dict[str, float]:
    return {"cpu_seconds": time.process_time(), "seconds": time.monotonic()}


@dataclass(frozen=True)
class Trained:
    """How a run ended.

    Attributes:
        is_finite: Whether all weights are finite.
        times: CPU time and wall-clock time in seconds, those before interruptions included.
    """

    is_finite: bool
    times: dict[str, float]


def train_resumably(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    work: Path,
    *,
    epochs: int | None = None,
    begin: Path | None = None,
) -> Trained:
    """Train, resuming an interrupted run from the checkpoint in its folder.

    Args:
        trainer: Trainer without checkpoints of its own.
        model: Module to train.
        datamodule: Its data.
        work: Folder of checkpoint and progress; it is made.
        epochs: Number of epochs after which to stop. Default: all of the Trainer's, whose number the learning rate
            schedule and sparse training go by in any case.
        begin: Checkpoint of a shorter training to continue, if there is none in the folder. One that is missing or
            incomplete means training from the start.

    Raises:
        RuntimeError: If training ends before its last step.
    """
    work.mkdir(parents=True, exist_ok=True)
    progress = Progress(work / "progress")
    checkpoint = _Saver(work, "last", train_time_interval=_saving_interval(), enable_version_counter=False)
    own: list[Callback] = [
        RandomStateCallback(),
        progress,
        *([] if epochs is None else [StopAfter(epochs)]),
        checkpoint,
    ]
    trainer.callbacks.extend(own)  # type: ignore[attr-defined]  # Lightning sets it in a connector
    start = _readable_checkpoint(work / "last.ckpt") or (None if begin is None else _readable_checkpoint(begin))
    is_finite = _train(trainer, model, datamodule, start)
    return Trained(is_finite, progress.times)


def _train(trainer: Trainer, model: LightningModule, datamodule: LightningDataModule, checkpoint: Path | None) -> bool:
    """Train, and return whether the weights are finite at the end."""
    try:
        trainer.fit(model, datamodule, ckpt_path=checkpoint, weights_only=True)
    except NonFiniteError:  # raised by a topology update
        return False
    _check_end(trainer)
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def _check_end(trainer: Trainer) -> None:
    """Raise a RuntimeError if training was stopped: its result would look like that of a complete run."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    if not (0 <= epochs <= trainer.current_epoch or 0 <= steps <= trainer.global_step):
        raise InvalidStateError(
            expected=f"{epochs} epochs of training",
            got=f"{trainer.current_epoch} before it was stopped",
            cure="start again, without what stopped it; the run resumes from its last checkpoint",
        )


def _saving_interval() -> timedelta:
    return timedelta(seconds=float(os.environ.get(_SAVE_EVERY_VARIABLE, _SAVE_EVERY)))


def _readable_checkpoint(checkpoint: Path) -> Path | None:
    """Return the checkpoint of an interrupted run; None if there is none, or it is incomplete."""
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # reading an incomplete file raises many kinds
        warnings.warn(f"{checkpoint.name} is incomplete ({error}): the run starts from the beginning.", stacklevel=2)
        return None
    return checkpoint


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    lightning = version(Trainer.__module__.partition(".")[0])
    return {"lightning_sparse": __version__, "torch": torch.__version__, "lightning": lightning}


def run_alone(training: Training, arguments: Sequence[str], run: Callable[[Path, Path], object]) -> None:
    """Run what a training process was started for, unless it is finished or another process runs it.

    Args:
        training: Training to run.
        arguments: Arguments of the process after the description: the root folder of the data sets, the folder of the
            results; "lifeline" if standard input is a pipe with whose other end this process shall end.
        run: Function of the two folders that writes the result.
    """
    # The command ends its runs by SIGINT, which is ignored in processes that a script starts in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    data, results, *rest = arguments
    if LIFELINE in rest:
        end_with_parent()
    try:
        work = Path(results) / training.path
        with _folder_lock(work):
            _forget_others(work, training.to_json())
            if not (Path(results) / f"{training.path}.json").exists():  # another process may have just finished it
                run(Path(data), Path(results))
    except Timeout:
        sys.exit(RUN_ELSEWHERE)


def _forget_others(work: Path, description: str) -> None:
    """Delete the checkpoint of another training that had the same folder, such as a study with other options."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    file, checkpoint = work / "training.json", work / "last.ckpt"
    if checkpoint.exists() and file.exists() and file.read_text() != description:
        warnings.warn(f"{checkpoint} is of a training with other options: the run starts again.", stacklevel=2)
        checkpoint.unlink()
    work.mkdir(parents=True, exist_ok=True)
    write_atomically(file, description)


def _folder_lock(work: Path) -> AbstractContextManager[object]:
    """Hold the folder's lock for the life of the main process; its DDP children share it."""
    return exclusive(work / LOCK, timeout=0) if os.environ.get("LOCAL_RANK", "0") == "0" else nullcontext()
