"""Runs one experiment in a process of its own: `python -m lightning_sparse.experiments.worker`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout

from lightning_sparse._compat import Callback, LightningModule, ModelCheckpoint, Trainer
from lightning_sparse._version import __version__
from lightning_sparse.callbacks import RandomStateCallback
from lightning_sparse.data.locking import exclusive
from lightning_sparse.experiments.results import is_finished
from lightning_sparse.experiments.setting import Experiment
from lightning_sparse.experiments.sparse_cli import SparseCLI
from lightning_sparse.topology.layer import NonFiniteError
from lightning_sparse.validation.errors import InvalidStateError

# Exit status of a process that finds its run taken by another one.
RUN_ELSEWHERE = 75  # sysexits.h: a temporary failure
# An interrupted run loses at most this much.
_SAVE_EVERY = timedelta(minutes=2)


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


class _Saver(ModelCheckpoint):
    """Saves one checkpoint of a run at intervals of time."""

    # Lightning asks for the key at every hook, six times a step; ModelCheckpoint would format its options each time.
    state_key = "Saver"


def _clocks() -> dict[str, float]:
    return {"cpu_seconds": time.process_time(), "seconds": time.monotonic()}


def run(experiment: Experiment, data: Path, results: Path) -> dict[str, Any] | None:
    """Train and test, resuming an interrupted run from its checkpoint, and write the result.

    Args:
        experiment: Experiment to run.
        data: Root folder of the data sets.
        results: Folder of the results.

    Returns:
        The result, on rank zero. It has no metrics if weights are not finite.

    Raises:
        RuntimeError: If training ends before its last step.
    """
    work = experiment.work_folder(results)
    work.mkdir(parents=True, exist_ok=True)
    cli = SparseCLI(_arguments(experiment, data), run=False)
    progress = Progress(work / "progress")
    checkpoint = _Saver(work, "last", train_time_interval=_SAVE_EVERY, enable_version_counter=False)
    cli.trainer.callbacks.extend([RandomStateCallback(), progress, checkpoint])  # type: ignore[attr-defined]  # Lightning sets it in a connector
    is_finite = _train(cli, _readable_checkpoint(work / "last.ckpt"))
    times = progress.times
    tested = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0] if is_finite else {}
    # At a smaller scale, networks can't be expected to have learned.
    guesses = bool(tested) and not experiment.scale.shortens and not _has_learned(tested["test/accuracy"], cli.model)
    if not cli.trainer.is_global_zero:
        return None
    result = {
        "config": experiment.setting.config,
        "changes": dict(experiment.setting.changes),
        "seed": experiment.seed,
        "scale": experiment.scale.name,
        "trainer": dict(experiment.scale.trainer),
        "compile_mode": experiment.scale.compile_mode,
        "epochs": cli.trainer.current_epoch,
        "steps": cli.trainer.global_step,
        "diverged": not is_finite or guesses,
        "metrics": {name.removeprefix("test/"): round(value, 6) for name, value in tested.items()},
        **_weight_counts(cli.model, is_finite=is_finite),
        **{name: round(seconds, 1) for name, seconds in times.items()},
        "device": _device_name(cli.trainer),
        "devices": cli.trainer.world_size,
        "versions": {"lightning_sparse": __version__, "torch": torch.__version__, "lightning": _lightning_version()},
    }
    _write_atomically(experiment.result_file(results), json.dumps(result, indent=1) + "\n")
    return result


def _train(cli: SparseCLI, checkpoint: Path | None) -> bool:
    """Train, and return whether the weights are finite at the end."""
    try:
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except NonFiniteError:  # raised by a topology update
        return False
    _check_end(cli.trainer)
    return all(bool(parameter.isfinite().all()) for parameter in cli.model.parameters())


def _has_learned(accuracy: float, model: LightningModule) -> bool:
    """Return whether a network is better than one that predicts one class for all images, even a frequent one."""
    classes: int = model.num_classes  # type: ignore[assignment]  # an attribute of ImageClassifier
    return accuracy > 1.5 / classes


def _check_end(trainer: Trainer) -> None:
    """Raise a RuntimeError if training was stopped: its result would look like that of a complete run."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    if not (0 <= epochs <= trainer.current_epoch or 0 <= steps <= trainer.global_step):
        raise InvalidStateError(
            expected=f"{epochs} epochs of training",
            got=f"{trainer.current_epoch} before it was stopped",
            cure="start again, without what stopped it; the run resumes from its last checkpoint",
        )


def _device_name(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _arguments(experiment: Experiment, data: Path) -> list[str]:
    return [
        *experiment.arguments(),
        *experiment.setting.data_arguments(data, download=False),
        *("--trainer.logger", "false", "--trainer.enable_checkpointing", "false"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    ]


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


def _weight_counts(model: LightningModule, *, is_finite: bool) -> dict[str, Any]:
    """Count all weights of linear and convolutional layers, and the nonzero ones if all are finite (NaN isn't zero)."""
    network: Any = model.model
    weights = {name: values for name, values in network.named_parameters() if values.dim() > 1}
    nonzero = {name: int(torch.count_nonzero(values)) for name, values in weights.items()} if is_finite else {}
    return {"weights": sum(values.numel() for values in weights.values()), "nonzero": nonzero}


def _lightning_version() -> str:
    return version(Trainer.__module__.partition(".")[0])


def _write_atomically(file: Path, text: str) -> None:
    """Write a file atomically, so that no reader sees an incomplete one."""
    half = file.with_suffix(".half")
    half.write_text(text)
    half.replace(file)


def main(arguments: list[str]) -> None:
    """Run an experiment, unless it is finished or another process is running it.

    Args:
        arguments: The experiment as JSON, the root folder of the data sets, the folder of the results.
    """
    experiment, data, results = Experiment.from_json(arguments[0]), Path(arguments[1]), Path(arguments[2])
    try:
        with _folder_lock(experiment.work_folder(results)):
            if not is_finished(experiment, results):  # another process may have just finished it
                run(experiment, data, results)
    except Timeout:
        sys.exit(RUN_ELSEWHERE)


def _folder_lock(work: Path) -> AbstractContextManager[object]:
    """Hold the folder's lock for the life of the main process; its DDP children share it."""
    return exclusive(work / "lock", timeout=0) if os.environ.get("LOCAL_RANK", "0") == "0" else nullcontext()


if __name__ == "__main__":
    # The command ends its runs by SIGINT, which is ignored in processes that a script starts in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(sys.argv[1:])
