"""Every public name of earlier versions is still there, and so is what shipped configurations refer to."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lightning_sparse import configs

# Made by version 0.1.0: public modules and their names, the parameters of each, the members of classes, and the import
# paths in shipped configurations. Names are added here by later versions, and taken out one version after a warning.
SNAPSHOT: dict[str, Any] = json.loads(Path(__file__).with_name("public_names.json").read_text(encoding="utf-8"))


def public(path: str) -> Any:
    """Return a public object; one that is deprecated comes with its warning."""
    module, _, name = path.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(import_module(module), name)


@pytest.mark.parametrize("module", SNAPSHOT["names"])
def test_every_public_name_can_be_imported(module: str) -> None:
    missing = []
    for name in SNAPSHOT["names"][module]:
        try:
            public(f"{module}.{name}")
        except AttributeError:
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("path", SNAPSHOT["parameters"])
def test_every_parameter_is_still_taken(path: str) -> None:
    taken = inspect.signature(public(path)).parameters
    assert [name for name in SNAPSHOT["parameters"][path] if name not in taken] == []


@pytest.mark.parametrize("path", SNAPSHOT["members"])
def test_every_public_member_is_still_there(path: str) -> None:
    cls = public(path)
    members = {*dir(cls), *getattr(cls, "__dataclass_fields__", {})}  # a field without a default is no attribute of it
    assert [name for name in SNAPSHOT["members"][path] if name not in members] == []


def test_import_paths_in_shipped_configurations_are_those_of_the_snapshot() -> None:
    texts = [configs.find(name).read_text(encoding="utf-8") for name in configs.available()]
    paths = {path for text in texts for path in re.findall(r"\blightning_sparse\.[\w.]+", text)}
    assert sorted(paths) == SNAPSHOT["configurations"]
    for path in paths:
        assert public(path) is not None
