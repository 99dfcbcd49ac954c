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

# The exit status of a run that another process is at.
RUN_ELSEWHERE = 75  # sysexits.h: a temporary failure
# A run that is interrupted loses at most this much.
_SAVE_EVERY = timedelta(minutes=2)


class Progress(Callback):
    """Writes how far a run is, and counts its time over interruptions.

    Args:
        file: Gets two numbers: epochs completed and epochs in all.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before, self._start = {"cpu_seconds": 0.0, "seconds": 0.0}, _clocks()

    @property
    def times(self) -> dict[str, float]:
        """CPU time of this process and time on the clock, so far, in seconds."""
        return {name: self._before[name] + now - self._start[name] for name, now in _clocks().items()}

    def state_dict(self) -> dict[str, float]:
        """Return the times so far."""
        return self.times

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Add the times before an interruption."""
        self._before, self._start = {**self._before, **state_dict}, _clocks()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write where the run starts."""
        self._write(trainer, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write that another epoch is done."""
        self._write(trainer, trainer.current_epoch + 1)

    def _write(self, trainer: Trainer, epochs: int) -> None:
        if trainer.is_global_zero:
            self._file.write_text(f"{epochs} {trainer.max_epochs}")


class _Saver(ModelCheckpoint):
    """Keeps one checkpoint of a run, by time."""

    # Lightning asks for it at every hook, six times a step; ModelCheckpoint would write its options down each time.
    state_key = "Saver"


def _clocks() -> dict[str, float]:
    return {"cpu_seconds": time.process_time(), "seconds": time.monotonic()}


def run(experiment: Experiment, data: Path, results: Path) -> dict[str, Any] | None:
    """Train and evaluate once, from where an interrupted run stopped, and write the result.

    Args:
        experiment: What to run.
        data: Root folder of the data sets.
        results: Folder of the results.

    Returns:
        The result, on the process of rank zero. Of weights that are not finite there are no metrics.

    Raises:
        RuntimeError: If training ends before its last step.
    """
    work = experiment.work_folder(results)
    work.mkdir(parents=True, exist_ok=True)
    cli = SparseCLI(_arguments(experiment, data), run=False)
    progress = Progress(work / "progress")
    checkpoint = _Saver(work, "last", train_time_interval=_SAVE_EVERY, enable_version_counter=False)
    cli.trainer.callbacks.extend([RandomStateCallback(), progress, checkpoint])  # type: ignore[attr-defined]  # set in its constructor's connectors
    is_finite = _train(cli, _last(work / "last.ckpt"))
    times = progress.times
    tested = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0] if is_finite else {}
    # At a smaller scale, networks have hardly begun to learn.
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
        **_weights(cli.model, is_finite=is_finite),
        **{name: round(seconds, 1) for name, seconds in times.items()},
        "device": _device_name(cli.trainer),
        "devices": cli.trainer.world_size,
        "versions": {"lightning_sparse": __version__, "torch": torch.__version__, "lightning": _lightning_version()},
    }
    _write_whole(experiment.result_file(results), json.dumps(result, indent=1) + "\n")
    return result


def _train(cli: SparseCLI, checkpoint: Path | None) -> bool:
    """Train, and tell whether it ended with finite weights."""
    try:
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except NonFiniteError:  # a topology update looks first
        return False
    _check_end(cli.trainer)
    return all(bool(parameter.isfinite().all()) for parameter in cli.model.parameters())


def _has_learned(accuracy: float, model: LightningModule) -> bool:
    """Tell whether a network is better than one that says the same of all images, be its class a frequent one."""
    classes: int = model.num_classes  # type: ignore[assignment]  # that of an ImageClassifier
    return accuracy > 1.5 / classes


def _check_end(trainer: Trainer) -> None:
    """Raise a RuntimeError if a training was stopped, whose result would pass for a whole one's."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    if not (0 <= epochs <= trainer.current_epoch or 0 <= steps <= trainer.global_step):
        raise InvalidStateError(
            expected=f"{epochs} epochs of training",
            got=f"{trainer.current_epoch} before it was stopped",
            cure="start again, without what stopped it; the run goes on from its last checkpoint",
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


def _last(checkpoint: Path) -> Path | None:
    """Return the checkpoint of an interrupted run, if it is whole."""
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever reading half a file raises
        warnings.warn(f"{checkpoint.name} was not written to its end ({error}): the run starts again.", stacklevel=2)
        return None
    return checkpoint


def _weights(model: LightningModule, *, is_finite: bool) -> dict[str, Any]:
    """Count the weights of linear and convolutional layers, and those of them that are not zero, as NaN would be."""
    network: Any = model.model
    weights = {name: values for name, values in network.named_parameters() if values.dim() > 1}
    nonzero = {name: int(torch.count_nonzero(values)) for name, values in weights.items()} if is_finite else {}
    return {"weights": sum(values.numel() for values in weights.values()), "nonzero": nonzero}


def _lightning_version() -> str:
    return version(Trainer.__module__.partition(".")[0])


def _write_whole(file: Path, text: str) -> None:
    """Write a file at once, so that nobody ever sees half of it."""
    half = file.with_suffix(".half")
    half.write_text(text)
    half.replace(file)


def main(arguments: list[str]) -> None:
    """Run an experiment, unless it is finished or another process is at it.

    Args:
        arguments: The experiment as JSON, the root folder of the data sets, the folder of the results.
    """
    experiment, data, results = Experiment.from_json(arguments[0]), Path(arguments[1]), Path(arguments[2])
    try:
        with _alone(experiment.work_folder(results)):
            if not is_finished(experiment, results):  # by another process, a moment ago
                run(experiment, data, results)
    except Timeout:
        sys.exit(RUN_ELSEWHERE)


def _alone(work: Path) -> AbstractContextManager[object]:
    """Keep other processes from a folder for as long as this one lives, but those that it starts (DDP)."""
    return exclusive(work / "lock", timeout=0) if os.environ.get("LOCAL_RANK", "0") == "0" else nullcontext()


if __name__ == "__main__":
    # By which the command ends its runs. Where it was started in the background of a script, it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(sys.argv[1:])
