"""Documents name tests, files and numbers that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_sparse.experiments.setting import FULL
from lightning_sparse.reproduction.measured import MeasuredCells
from lightning_sparse.reproduction.report import as_csv, markdown
from lightning_sparse.reproduction.studies import STUDIES

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


DOCUMENTS = [
    *(TESTS.parent / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted((TESTS.parent / "docs").glob("*.md")),
    TESTS.parent / "notebooks" / "README.md",
    TESTS.parent / "compat" / "README.md",
]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[\w-]+)?\)")


def broken_links(text: str, folder: Path) -> list[str]:
    """Return the files that a document in a folder links to and that don't exist."""
    return [path for path in LINK.findall(text) if not (folder / path).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TESTS.parent)))
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    assert broken_links(document.read_text(), document.parent) == []


def test_a_broken_link_is_seen() -> None:
    text = "[a](test_documents.py#links) ![b](images/none.png) [c](https://example.org/none)"
    assert broken_links(text, TESTS) == ["images/none.png"]


def test_the_readme_shows_a_picture_that_loads_at_once() -> None:
    readme = (TESTS.parent / "README.md").read_text()
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", readme)
    assert 0 < (TESTS.parent / picture).stat().st_size < 60_000
    assert readme.index(picture) < readme.index("\n## ")


REPRODUCTION = TESTS.parent / "benchmarks" / "results" / "reproduction"
RESULTS = MeasuredCells(REPRODUCTION)
CLIPPED = MeasuredCells(REPRODUCTION, FULL.with_options({"gradient_clip_val": 1}))
ON_A_GPU = MeasuredCells(REPRODUCTION, FULL.with_options({"precision": "bf16-mixed"}, "default"))
EVERY = (RESULTS, CLIPPED, ON_A_GPU)
TABLES = [(results, path.stem) for results in EVERY for path in sorted(results.folder.glob("*.md"))]


@pytest.mark.parametrize(
    ("results", "name"), TABLES, ids=lambda part: part if isinstance(part, str) else part.scale.name
)
def test_tables_are_those_of_the_runs_beside_them(results: MeasuredCells, name: str) -> None:
    for suffix, table in ((".md", markdown), (".csv", as_csv)):
        assert (results.folder / f"{name}{suffix}").read_text() == table(STUDIES[name], results)


def test_every_folder_of_results_is_looked_at() -> None:
    assert {results.folder for results, _ in TABLES} == set(REPRODUCTION.iterdir())


def test_the_readme_shows_the_numbers_of_the_runs() -> None:
    readme = (TESTS.parent / "README.md").read_text()
    cells = [row[network] for _, row in STUDIES["table1"].rows for network in ("LeNet-300-100", "LeNet-5 Caffe")]
    measured = [(cell, *RESULTS.entry(cell)) for cell in cells if cell.setting is not None]
    shown = [(cell, mean, reaches) for cell, mean, reaches in measured if mean is not None]
    assert len(shown) >= 7
    for cell, mean, reaches in shown:
        lost = f", {RESULTS.diverged(cell)} diverged" if RESULTS.diverged(cell) else ""
        number = f"{mean.value:.2f}" if mean.error is None else f"{mean.value:.2f} +- {mean.error:.2f}"
        runs = "1 run" if mean.runs == 1 else f"{mean.runs} runs"
        here = f"{number} ({runs}{lost}){' *' if reaches else ''}"
        assert cell.published is not None
        published = f"{cell.published.value:.2f} +- {cell.published.error:.2f}"
        assert f"| {cell.weights:g} % | {here} | {published} |" in readme


def test_the_readme_shows_the_curve_of_the_runs() -> None:
    readme = (TESTS.parent / "README.md").read_text()
    cells = [row["LeNet-300-100, MNIST"] for _, row in STUDIES["figure2"].rows if "LeNet-300-100, MNIST" in row]
    measured = [(cell, RESULTS.entry(cell)[0]) for cell in cells if cell.setting is not None]
    assert len(measured) == 7
    for cell, mean in measured:
        assert mean is not None
        assert mean.runs == 3
        assert cell.published is not None
        here, published = (f"{each.value:.2f} +- {each.error:.2f}" for each in (mean, cell.published))
        assert f"| {cell.weights:g} % | {here} | {published} |" in readme


def test_the_readme_shows_the_runs_on_a_gpu() -> None:
    readme = (TESTS.parent / "README.md").read_text()
    cells = [(network, cell) for network, row in STUDIES["table2"].rows for cell in row.values() if cell.setting]
    measured = [(network, cell, ON_A_GPU.entry(cell)[0]) for network, cell in cells]
    shown = [(network, cell, mean) for network, cell, mean in measured if mean is not None]
    assert len(shown) >= 3
    for network, cell, mean in shown:
        assert mean.runs == 1
        assert cell.published is not None
        published = f"{cell.published.value:.2f} +- {cell.published.error:.2f}"
        assert f"| {network}, {cell.weights:g} % | {mean.value:.2f} | {published} |" in readme


def test_the_readme_shows_the_ablation_of_the_runs() -> None:
    readme = (TESTS.parent / "README.md").read_text()
    for label, row in STUDIES["table5"].rows:
        cell = row["LeNet-300-100, MNIST"]
        mean, _ = RESULTS.entry(cell)
        assert mean is not None
        assert cell.published is not None
        assert mean.runs == (10 if cell.base is None else 5)
        sign = "" if cell.base is None else "+"
        here, published = (f"{each.value:{sign}.2f} +- {each.error:.2f}" for each in (mean, cell.published))
        assert f"| {label} | {here} | {published} |" in readme
