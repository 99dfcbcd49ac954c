"""Documents name tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
NAMED = re.compile(r"`([\w/]+\.py)(?:::(\w+))?`")


def missing(text: str) -> list[str]:
    """Return what a text names that is not among the tests."""
    found = []
    for path, name in NAMED.findall(text):
        file = TESTS / path
        if not file.exists() or (name and f"def {name}(" not in file.read_text()):
            found.append(f"{path}::{name}")
    return found


def test_every_promise_names_tests_that_exist() -> None:
    text = (TESTS.parent / "docs" / "guarantees.md").read_text()
    text = re.sub(r"`benchmarks/[\w/]+\.py`", "", text)
    assert len(NAMED.findall(text)) > 60
    assert missing(text) == []


def test_a_test_that_does_not_exist_is_seen() -> None:
    assert missing("`test_documents.py::test_nothing`, `test_nowhere.py`") == [
        "test_documents.py::test_nothing",
        "test_nowhere.py::",
    ]
