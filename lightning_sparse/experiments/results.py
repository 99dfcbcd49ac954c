"""Result files: one JSON file per finished run."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lightning_sparse.experiments.engine.orders import Training
from lightning_sparse.experiments.setting import Experiment
from lightning_sparse.validation.errors import InvalidValueError


def is_finished(experiment: Experiment, results: Path) -> bool:
    """Return whether an experiment has a result file."""
    return experiment.result_file(results).exists()


def read_result(file: Path) -> dict[str, Any]:
    """Return the content of a result file.

    Raises:
        ValueError: If the file is not the result of a run.
    """
    try:
        run = json.loads(file.read_text())
        int(run["seed"]), None if run.get("diverged") else float(run["metrics"]["accuracy"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValueError(
            expected=f"the result of a run, as JSON, in {file}",
            got=f"something else ({error!r})",
            cure="delete it, and start again to repeat the run",
        ) from error
    return dict(run)


def read_training(file: Path, training: Training, needed: Collection[str], noun: str) -> dict[str, Any]:
    """Return the content of the result file of a training that has its whole description in it.

    Args:
        file: The file.
        training: The training.
        needed: Names that a result has, unless it diverged.
        noun: Noun for what the training belongs to, for errors.

    Raises:
        ValueError: If the file is damaged, or that of another training.
    """
    try:
        result: dict[str, Any] = json.loads(file.read_text())
        same = all(result[key] == value for key, value in json.loads(training.to_json()).items())
        missing = [] if result["diverged"] else sorted(set(needed) - set(result))
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(file, repr(error)) from error
    if missing:
        raise _unreadable(file, f"no {', '.join(missing)}")
    if not same:
        raise InvalidValueError(
            expected=f"a result of the {noun} as it is in {file}",
            got="one of other options",
            cure=f"give the changed {noun} another name, or another folder of results",
        )
    return result


def _unreadable(file: Path, got: str) -> InvalidValueError:
    return InvalidValueError(
        expected=f"the result of a training, as JSON, in {file}",
        got=f"something else ({got})",
        cure="delete it, and start again to repeat the training",
    )
