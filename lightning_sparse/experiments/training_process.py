"""Runs one experiment in a process of its own: `python -m lightning_sparse.experiments.training_process`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.experiments.engine.writing import write_atomically
from lightning_sparse.experiments.resumable import run_alone, train_resumably, versions
from lightning_sparse.experiments.setting import Experiment
from lightning_sparse.experiments.sparse_cli import SparseCLI


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
    cli = SparseCLI(_arguments(experiment, data), run=False)
    trained = train_resumably(cli.trainer, cli.model, cli.datamodule, experiment.work_folder(results))
    is_finite = trained.is_finite
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
        **{name: round(seconds, 1) for name, seconds in trained.times.items()},
        "device": _device_name(cli.trainer),
        "devices": cli.trainer.world_size,
        "versions": versions(),
    }
    write_atomically(experiment.result_file(results), json.dumps(result, indent=1) + "\n")
    return result


def _has_learned(accuracy: float, model: LightningModule) -> bool:
    """Return whether a network is better than one that predicts one class for all images, even a frequent one."""
    classes: int = model.num_classes  # type: ignore[assignment]  # an attribute of ImageClassifier
    return accuracy > 1.5 / classes


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


def _weight_counts(model: LightningModule, *, is_finite: bool) -> dict[str, Any]:
    """Count all weights of linear and convolutional layers, and the nonzero ones if all are finite (NaN isn't zero)."""
    network: Any = model.model
    weights = {name: values for name, values in network.named_parameters() if values.dim() > 1}
    nonzero = {name: int(torch.count_nonzero(values)) for name, values in weights.items()} if is_finite else {}
    return {"weights": sum(values.numel() for values in weights.values()), "nonzero": nonzero}


def main(arguments: list[str]) -> None:
    """Run an experiment, unless it is finished or another process is running it.

    Args:
        arguments: The experiment as JSON, and the other arguments of `run_alone`.
    """
    experiment = Experiment.from_json(arguments[0])
    run_alone(experiment, arguments[1:], lambda data, results: run(experiment, data, results))


if __name__ == "__main__":
    main(sys.argv[1:])
