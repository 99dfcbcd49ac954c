"""Misspelt options in configuration files, found before the parser joins them with all that it tried instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from lightning_sparse import callbacks, data, models
from lightning_sparse.validation.errors import InvalidValueError


def check_option_names(path: Path) -> None:
    """Compare the options that a configuration file gives to this library's classes with those that they have.

    Files that are no YAML, and classes of others, are left to the parser.

    Args:
        path: YAML file of the command line.

    Raises:
        InvalidValueError: If a class has no option of that name, with the option that was meant, most likely.
    """
    try:
        configuration = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    for class_path, options in _arguments(configuration):
        name = class_path.rpartition(".")[2]
        cls = next((getattr(room, name) for room in (callbacks, data, models) if name in room.__all__), None)
        if not isinstance(cls, type) or class_path not in (name, f"lightning_sparse.{name}", _path_in_room(cls)):
            continue
        known = ArgumentParser().add_class_arguments(cls, fail_untyped=False)
        if unknown := [str(option) for option in options if option not in known]:
            close = get_close_matches(unknown[0], known, n=1)
            raise InvalidValueError(
                expected=f"options of {name} in {str(path)!r}",
                got=", ".join(map(repr, unknown)),
                cure=f"{close[0]!r} is probably meant" if close else f"its options are {', '.join(known)}",
            )


def _path_in_room(cls: type) -> str:
    package, room, *_ = cls.__module__.split(".")
    return f"{package}.{room}.{cls.__name__}"


def _arguments(configuration: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield import path and arguments of each class in a configuration, however deep it stands."""
    if isinstance(configuration, Mapping):
        path, options = configuration.get("class_path"), configuration.get("init_args")
        if isinstance(path, str) and isinstance(options, Mapping):
            yield path, options
        for value in configuration.values():
            yield from _arguments(value)
    elif isinstance(configuration, list):
        for value in configuration:
            yield from _arguments(value)
