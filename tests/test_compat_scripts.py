"""The scripts in compat/ are short, and say exactly which packages they train; they themselves run outside of CI."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

COMPAT = Path(__file__).parents[1] / "compat"
SCRIPTS = sorted((COMPAT / "packages").glob("train_*.py"))


@pytest.fixture(scope="module")
def environments() -> ModuleType:
    """Return the module that reads the headers."""
    spec = importlib.util.spec_from_file_location("environments", COMPAT / "environments.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_scripts_for_fifteen_packages() -> None:
    assert len(SCRIPTS) >= 15


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_pins_what_it_installs_and_stays_short(environments: ModuleType, script: Path) -> None:
    pins = environments.pins(script)
    assert pins
    assert [pin for pin in pins if not re.fullmatch(r"[\w-]+(\[[\w,-]+\])?==[\w.]+", pin)] == []
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 65
    assert "recount.report()" in text


def test_a_script_without_a_header_is_an_error(environments: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "train_nothing.py"
    script.write_text("import torch\n")
    with pytest.raises(ValueError, match="dependencies"):
        environments.pins(script)


def test_the_table_has_a_row_for_every_script_with_its_present_pins(environments: ModuleType) -> None:
    rows = json.loads((COMPAT / "results" / "packages.json").read_text(encoding="utf-8"))
    assert {name: row["pins"] for name, row in rows.items()} == {
        script.stem.removeprefix("train_"): environments.pins(script) for script in SCRIPTS
    }
