"""A table says what was measured, what is published, and which networks reach the dense one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from test_results import finish

from lightning_sparse.reproduction import report
from lightning_sparse.reproduction.results import Results
from lightning_sparse.reproduction.setting import Setting
from lightning_sparse.reproduction.studies import STUDIES, Cell, Study

DENSE, SPARSE, RANDOM = (
    Setting("mnist_lenet300_dense"),
    Setting("mnist_lenet300_5"),
    Setting("mnist_lenet300_5", (("growth", "random"),)),
)
STUDY = Study(
    "Table 0: test error (%)",
    [
        ("dense", {"A": Cell(100, (1.34, 0.011), DENSE), "B": Cell(100, (0.58, 0.010), Setting("mnist_lenet5_dense"))}),
        ("another method", {"A": Cell(8, (2.0, None)), "B": Cell(9, (2.7, None))}),
        ("sparse", {"A": Cell(5, (1.53, 0.02), SPARSE, DENSE)}),
        ("random", {"A": Cell(5, (0.07, 0.022), RANDOM, base=SPARSE)}),
    ],
    seeds=2,
)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    for seed in (0, 1):
        finish(tmp_path, DENSE, seed, 1.30 + seed / 50)
        finish(tmp_path, SPARSE, seed, 1.32 + seed / 50)
        finish(tmp_path, RANDOM, seed, 1.22 + seed / 50)
    return Results(tmp_path)


def test_markdown_has_the_rows_of_the_paper(results: Results) -> None:
    lines = report.markdown(STUDY, results).splitlines()
    assert lines[:8] == [
        "# Table 0: test error (%)",
        "",
        "|  | A, here | published | B, here | published |",
        "| --- | --- | --- | --- | --- |",
        "| dense, 100 % | 1.31 +- 0.010 (2) | 1.34 +- 0.011 | - | 0.58 +- 0.010 |",
        "| another method |  | 2.00 at 8 % |  | 2.70 at 9 % |",
        "| sparse, 5 % | 1.33 +- 0.010 (2) * | 1.53 +- 0.020 |  |  |",
        "| random, 5 % | -0.10 +- 0.014 (2) | +0.07 +- 0.022 |  |  |",
    ]


def test_csv_has_a_line_for_each_cell(results: Results) -> None:
    rows = list(csv.DictReader(report.as_csv(STUDY, results).splitlines()))
    assert [(row["row"], row["column"], row["setting"]) for row in rows][:2] == [
        ("dense", "A", "mnist_lenet300_dense"),
        ("dense", "B", "mnist_lenet5_dense"),
    ]
    assert (rows[4]["mean"], rows[4]["standard_error"], rows[4]["runs"]) == ("1.33", "0.01", "2")
    assert (rows[4]["published"], rows[4]["published_error"], rows[4]["reaches_dense"]) == ("1.53", "0.02", "True")
    assert (rows[1]["mean"], rows[1]["reaches_dense"]) == ("", "")


def test_a_picture_has_a_part_for_each_column_and_a_point_for_each_number(results: Results) -> None:
    figure = report.picture(STUDY, results)
    assert [axes.get_title() for axes in figure.axes] == ["A", "B"]
    here, published = (container.lines[0].get_xdata() for container in figure.axes[0].containers)
    assert list(here) == pytest.approx([1.31, 1.33, -0.10])
    assert list(published) == [1.34, 2.0, 1.53, 0.07]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_reported_before_anything_is_measured(tmp_path: Path, name: str) -> None:
    study, results = STUDIES[name], Results(tmp_path)
    assert report.markdown(study, results).count("\n| ") == len(study.rows) + 2
    assert len(report.as_csv(study, results).splitlines()) == 1 + sum(len(cells) for _, cells in study.rows)
    assert len(report.picture(study, results).axes) == len(study.columns)
