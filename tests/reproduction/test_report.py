"""A table says what was measured, what is published, and which networks reach the dense one."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats  # type: ignore[import-untyped]  # it has none
from test_results import diverge, finish

from lightning_sparse.experiments.setting import FULL, SMALL, Setting
from lightning_sparse.reproduction import report
from lightning_sparse.reproduction.measured import MeasuredCells
from lightning_sparse.reproduction.studies import STUDIES
from lightning_sparse.reproduction.study import Cell, Published, Study

DENSE, SPARSE, RANDOM = (
    Setting("mnist_lenet300_dense"),
    Setting("mnist_lenet300_5"),
    Setting("mnist_lenet300_5", (("growth", "random"),)),
)
STUDY = Study(
    "Table 0: test error (%)",
    [
        (
            "dense",
            {
                "A": Cell(100, Published("1.34 +- 0.011"), DENSE),
                "B": Cell(100, Published("0.58 +- 0.010"), Setting("mnist_lenet5_dense")),
            },
        ),
        ("another method", {"A": Cell(8, Published("2.0")), "B": Cell(9, Published("2.75"))}),
        ("sparse", {"A": Cell(5, Published("1.530 +- 0.02"), SPARSE, DENSE)}),
        ("random", {"A": Cell(5, Published("+0.07 +- 0.022"), RANDOM, base=SPARSE)}),
    ],
    seeds=2,
    note="What to know of it.",
)


@pytest.fixture
def results(tmp_path: Path) -> MeasuredCells:
    for seed in (0, 1):
        finish(tmp_path, DENSE, seed, 1.30 + seed / 50)
        finish(tmp_path, SPARSE, seed, 1.32 + seed / 50)
        finish(tmp_path, RANDOM, seed, 1.22 + seed / 50)
    return MeasuredCells(tmp_path)


def test_markdown_has_the_rows_of_the_paper_with_its_decimals(results: MeasuredCells) -> None:
    lines = report.markdown(STUDY, results).splitlines()
    assert lines[:8] == [
        "# Table 0: test error (%)",
        "",
        "|  | A, here | published | B, here | published |",
        "| --- | --- | --- | --- | --- |",
        "| dense, 100 % | 1.31 +- 0.010 (2) | 1.34 +- 0.011 | - | 0.58 +- 0.010 |",
        "| another method |  | 2.0 at 8 % |  | 2.75 at 9 % |",
        "| sparse, 5 % | 1.33 +- 0.010 (2) * | 1.530 +- 0.02 |  |  |",
        "| random, 5 % | -0.10 +- 0.010 (2) | +0.07 +- 0.022 |  |  |",
    ]


def test_markdown_ends_with_what_to_know_of_the_study_and_of_all(results: MeasuredCells) -> None:
    assert report.markdown(STUDY, results).split("\n\n")[2:3] == ["What to know of it."]
    general = report.markdown(replace(STUDY, note=""), results).split("\n\n")[2:]
    assert len(general) == 1
    (text,) = general
    assert "normal, 1.96 standard errors to each side, as the authors'; it is too narrow for few runs" in " ".join(
        text.split()
    )


def test_the_note_has_the_quantiles_of_students_distribution(results: MeasuredCells) -> None:
    text = " ".join(report.markdown(STUDY, results).split())
    ten, five, three = (f"{stats.t.ppf(0.975, runs - 1):.2f}" for runs in (10, 5, 3))
    assert f"Student's would be {ten} of them for 10 runs, {five} for 5 and {three} for 3." in text


def test_csv_has_a_line_for_each_cell(results: MeasuredCells) -> None:
    rows = list(csv.DictReader(report.as_csv(STUDY, results).splitlines()))
    assert [(row["row"], row["column"], row["setting"]) for row in rows][:2] == [
        ("dense", "A", "mnist_lenet300_dense"),
        ("dense", "B", "mnist_lenet5_dense"),
    ]
    assert (rows[4]["mean"], rows[4]["standard_error"], rows[4]["runs"]) == ("1.33", "0.01", "2")
    assert (rows[4]["published"], rows[4]["published_error"], rows[4]["reaches_dense"]) == ("1.530", "0.02", "True")
    assert (rows[1]["mean"], rows[1]["reaches_dense"]) == ("", "")
    assert {row["scale"] for row in rows} == {"full"}


def test_runs_that_diverged_are_counted_and_in_no_mean(tmp_path: Path) -> None:
    setting, results = Setting("mnist_lenet300_5"), MeasuredCells(tmp_path)
    cells = [Cell(5, None, setting), Cell(5, None, setting, base=setting)]
    study = Study("T", [("sparse", {"A": cell}) for cell in cells], seeds=1)
    diverge(tmp_path, setting, 0)
    assert results.mean(setting, "error") is None
    assert "| sparse, 5 % | 1 diverged |" in report.markdown(study, results)
    finish(tmp_path, setting, 1, 1.5)
    finish(tmp_path, setting, 2, 1.7)
    diverge(tmp_path, setting, 3)
    assert "| sparse, 5 % | 1.60 +- 0.100 (2, 2 diverged) |" in report.markdown(study, results)
    (row, _) = csv.DictReader(report.as_csv(study, results).splitlines())
    assert (row["mean"], row["runs"], row["diverged"]) == ("1.6", "2", "2")


def test_a_difference_from_runs_that_all_diverged_is_not_unmeasured(tmp_path: Path) -> None:
    base, variant = Setting("mnist_lenet5_5"), Setting("mnist_lenet5_5", (("growth", "random"),))
    study = Study("A table", [("random", {"A": Cell(5, None, variant, base=base)})], seeds=1)
    finish(tmp_path, variant, 0, 1.0)
    assert "| - |" in report.markdown(study, MeasuredCells(tmp_path))
    diverge(tmp_path, base, 0)
    assert "| its base diverged |" in report.markdown(study, MeasuredCells(tmp_path))


def test_csv_has_the_error_of_a_difference_beside_that_of_the_variant(results: MeasuredCells) -> None:
    *others, difference = csv.DictReader(report.as_csv(STUDY, results).splitlines())
    assert (difference["mean"], difference["standard_error"], difference["difference_error"]) == (
        *("-0.1", "0.01"),
        "0.0141",
    )
    assert {row["difference_error"] for row in others} == {""}
    assert float(difference["published"]) == 0.07


def test_a_small_scale_is_named_in_the_title_the_note_and_each_line(tmp_path: Path) -> None:
    full, small = MeasuredCells(tmp_path, FULL), MeasuredCells(tmp_path, SMALL)
    assert report.title(STUDY, full) == "Table 0: test error (%)"
    assert report.title(STUDY, small) == "Table 0: test error (%) (small scale, no reproduction)"
    assert report.markdown(STUDY, small).startswith(f"# {report.title(STUDY, small)}\n")
    assert SMALL.note in report.markdown(STUDY, small)
    assert "mall scale" not in report.markdown(STUDY, full)
    assert {row["scale"] for row in csv.DictReader(report.as_csv(STUDY, small).splitlines())} == {"small"}


def test_the_note_of_the_small_scale_has_its_numbers() -> None:
    epochs, batches = (SMALL.changes[f"trainer.{name}"] for name in ("max_epochs", "limit_train_batches"))
    assert f"{epochs} epochs of {batches} small batches" in SMALL.note
    assert f"{SMALL.width:g} times" in SMALL.note


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_reported_before_anything_is_measured(tmp_path: Path, name: str) -> None:
    study, results = STUDIES[name], MeasuredCells(tmp_path)
    text = report.markdown(study, results)
    assert text.count("\n| ") == len(study.rows) + 2
    assert study.note in text
    assert len(report.as_csv(study, results).splitlines()) == 1 + sum(len(cells) for _, cells in study.rows)
