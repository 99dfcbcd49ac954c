"""Dataclasses read from YAML files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from math import inf, isfinite
from pathlib import Path
from typing import Any

import yaml

from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import is_integer, is_real


def read_options(kind: type, file: Path, noun: str) -> dict[str, Any]:
    """Return the arguments of a dataclass from a YAML file; lists become tuples, and its name is the file's.

    Args:
        kind: The dataclass, which has a field `name`.
        file: The file.
        noun: Noun for what the file describes, with its article, for errors.

    Raises:
        ValueError: If options are unknown or missing.
    """
    try:
        options = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise InvalidValueError(expected=f"YAML in {file}", got=str(error), cure="mend the file") from error
    known = {each.name: each for each in fields(kind) if each.init}
    unknown = sorted(map(str, set(options) - set(known))) if isinstance(options, dict) else [repr(options)]
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


def check_numbers(options: object, names: Sequence[str], minimum: float = -inf, *, whole: bool = False) -> None:
    """Raise a ValueError for options that are no numbers, as `1e-4` is text in YAML, or below a minimum.

    Args:
        options: Object with the options as attributes.
        names: Names of the options.
        minimum: Smallest number.
        whole: Whether they must be integers.
    """
    for name in names:
        value = getattr(options, name)
        if not (is_integer(value, minimum) if whole else is_real(value, minimum) and isfinite(value)):
            bound = "" if minimum == -inf else f" >= {minimum:g}"
            raise InvalidValueError(
                expected=f"{'an integer' if whole else 'a number'}{bound} as {name}",
                got=repr(value),
                cure="another one" if is_real(value) else "a number; in YAML 1.0e-4, as 1e-4 is text",
            )


def check_lists(options: object, names: Sequence[str], of: type | tuple[type, ...] = str) -> None:
    """Raise a ValueError for options that are no lists, or lists of something else.

    Args:
        options: Object with the options as attributes; lists are tuples, as they are read.
        names: Names of the options.
        of: Types of the entries.
    """
    for name in names:
        value = getattr(options, name)
        if not isinstance(value, tuple):
            raise InvalidValueError(expected=f"a list as {name}", got=repr(value), cure=f"[{value}]")
        if wrong := [each for each in value if not isinstance(each, of) or isinstance(each, bool)]:
            kind = "texts" if of is str else "numbers"
            raise InvalidValueError(expected=f"{kind} as {name}", got=repr(wrong[0]), cure="check the list")


def check_class(options: object, name: str) -> None:
    """Raise a ValueError unless options say what is made: its `class_path`, and maybe `init_args`.

    Args:
        options: The options.
        name: Name of what they are, for the error.
    """
    fits = isinstance(options, Mapping) and isinstance(options.get("class_path"), str)
    if not fits or not isinstance(options.get("init_args", {}), Mapping):  # type: ignore[attr-defined]  # a Mapping, if it fits
        raise InvalidValueError(
            expected=f"class_path and, if there are any, init_args as {name}",
            got=repr(options),
            cure="{class_path: package.Class, init_args: {option: value}}",
        )


def _is_needed(option: Field[Any]) -> bool:
    return option.default is MISSING and option.default_factory is MISSING
