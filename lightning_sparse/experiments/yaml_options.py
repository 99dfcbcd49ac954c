"""Dataclasses read from YAML files."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import yaml

from lightning_sparse.validation.errors import InvalidValueError


def read_options(kind: type, file: Path, noun: str) -> dict[str, Any]:
    """Return the arguments of a dataclass from a YAML file; lists become tuples, and its name is the file's.

    Args:
        kind: The dataclass, which has a field `name`.
        file: The file.
        noun: Noun for what the file describes, with its article, for errors.

    Raises:
        ValueError: If options are unknown or missing.
    """
    options = yaml.safe_load(file.read_text())
    known = {each.name: each for each in fields(kind) if each.init}
    unknown = sorted(set(options) - set(known)) if isinstance(options, dict) else [repr(options)]
    if unknown:
        raise InvalidValueError(
            expected=f"options of {noun} in {file}: {', '.join(sorted(known))}",
            got=", ".join(unknown),
            cure="check the spelling",
        )
    given: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in options.items()}
    missing = sorted(name for name, each in known.items() if _is_needed(each) and name not in {"name", *given})
    if missing:
        raise InvalidValueError(
            expected=f"all needed options of {noun} in {file}",
            got=f"none of {', '.join(missing)}",
            cure="add them",
        )
    return {"name": file.stem, **given}


def _is_needed(option: Field[Any]) -> bool:
    return option.default is MISSING and option.default_factory is MISSING
