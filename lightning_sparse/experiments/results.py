"""Result files: one JSON file per finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
