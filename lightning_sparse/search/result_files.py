"""Result files of trainings: one JSON file each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_sparse.search.trainings import SearchTraining
from lightning_sparse.validation.errors import InvalidValueError


def read_result(file: Path, training: SearchTraining) -> dict[str, Any]:
    """Return the content of a result file.

    Raises:
        ValueError: If it is damaged, or that of another training.
    """
    try:
        result: dict[str, Any] = json.loads(file.read_text())
        same = all(result[key] == value for key, value in json.loads(training.to_json()).items())
        complete = bool(result["diverged"]) or {"value", "active"} <= set(result)
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(file, repr(error)) from error
    if not complete:
        raise _unreadable(file, "no value")
    if not same:
        raise InvalidValueError(
            expected=f"a result of the search as it is in {file}",
            got="one of other options",
            cure="give the changed search another name, or another folder of results",
        )
    return result


def _unreadable(file: Path, got: str) -> InvalidValueError:
    return InvalidValueError(
        expected=f"the result of a training, as JSON, in {file}",
        got=f"something else ({got})",
        cure="delete it, and start again to repeat the training",
    )
