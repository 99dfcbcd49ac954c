"""Means, standard errors and intervals of finished runs."""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sparse.experiments.setting import SMALL, Experiment, Setting
from lightning_sparse.reproduction.measured import Mean, MeasuredCells
from lightning_sparse.reproduction.study import Cell, Published

percents = st.floats(0, 100)


def finish(folder: Path, setting: Setting, seed: int, error: float, **more: float) -> None:
    """Write the result of a run."""
    file = Experiment(setting, seed).result_file(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"seed": seed, "metrics": {"accuracy": 1 - error / 100, **more}}))


def diverge(folder: Path, setting: Setting, seed: int) -> None:
    """Write the result of a run that diverged."""
    finish(folder, setting, seed, 0.0)
    Experiment(setting, seed).result_file(folder).write_text(
        json.dumps({"seed": seed, "diverged": True, "metrics": {}})
    )


@given(values=st.lists(percents, min_size=2, max_size=12))
def test_a_mean_and_its_standard_error_agree_with_numpy(values: list[float]) -> None:
    mean = Mean.over(values)
    assert mean is not None
    assert mean.value == pytest.approx(np.mean(values))
    assert mean.error == pytest.approx(np.std(values, ddof=1) / sqrt(len(values)))
    assert mean.runs == len(values)


def test_one_run_has_no_error_and_none_no_mean() -> None:
    assert Mean.over([1.5]) == Mean(1.5, None, 1)
    assert Mean.over([]) is None


@pytest.mark.parametrize(
    ("sparse", "measure", "reaches"),
    [
        (Mean(1.55, 0.02, 5), "error", True),  # 1.511 to 1.589 and 1.461 to 1.539
        (Mean(1.60, 0.02, 5), "error", False),
        (Mean(1.20, 0.02, 5), "error", True),
        (Mean(1.60, 0.02, 5), "accuracy", True),
        (Mean(1.20, 0.02, 5), "accuracy", False),
        (Mean(1.50, None, 1), "error", None),
        # The ends of two intervals of 1.96 standard errors of 0.02 just meet, or just don't.
        (Mean(1.50 + 1.9599 * 0.04, 0.02, 5), "error", True),
        (Mean(1.50 + 1.9601 * 0.04, 0.02, 5), "error", False),
        (Mean(1.50 - 1.9599 * 0.04, 0.02, 5), "accuracy", True),
        (Mean(1.50 - 1.9601 * 0.04, 0.02, 5), "accuracy", False),
        # Their widths add up, they are not combined like errors.
        (Mean(1.50 + 1.9599 * 0.08, 0.06, 5), "error", True),
        (Mean(1.50 + 1.9601 * 0.08, 0.06, 5), "error", False),
    ],
)
def test_a_network_reaches_the_dense_one_if_intervals_overlap_or_it_is_better(
    sparse: Mean, measure: str, reaches: bool | None
) -> None:
    assert sparse.reaches(Mean(1.50, 0.02, 5), measure) is reaches  # type: ignore[arg-type]  # one of the literals


def test_a_difference_has_the_error_of_both() -> None:
    assert Mean(3.0, 0.3, 5).minus(Mean(1.0, 0.4, 4)) == Mean(2.0, 0.5, 4)
    assert Mean(3.0, 0.3, 5).minus(Mean(1.0, None, 1)).error is None


def test_a_cell_is_made_of_the_runs_of_its_setting_and_scale(tmp_path: Path) -> None:
    sparse, dense = Setting("mnist_lenet300_5"), Setting("mnist_lenet300_dense")
    for seed, error in enumerate((1.4, 1.6)):
        finish(tmp_path, sparse, seed, error)
        finish(tmp_path, dense, seed, error - 0.1)
    found, reaches = MeasuredCells(tmp_path).entry(Cell(5, None, sparse, dense))
    assert found is not None
    assert (found.value, found.error, found.runs) == (pytest.approx(1.5), pytest.approx(0.1), 2)
    assert reaches is True
    assert MeasuredCells(tmp_path, SMALL).entry(Cell(5, None, sparse, dense)) == (None, None)
    assert MeasuredCells(tmp_path).entry(Cell(5, Published("2.0"))) == (None, None)


def test_a_cell_may_be_a_difference_from_another_setting_with_the_error_and_runs_of_its_own(tmp_path: Path) -> None:
    base, changed = Setting("mnist_lenet300_5"), Setting("mnist_lenet300_5", (("growth", "random"),))
    for seed in (0, 1):
        finish(tmp_path, base, seed, 1.5 + 3 * seed / 10)
    for seed, error in enumerate((1.8, 1.8, 2.1)):
        finish(tmp_path, changed, seed, error)
    results, cell = MeasuredCells(tmp_path), Cell(5, None, changed, base=base)
    found, reaches = results.entry(cell)
    assert found is not None
    assert [found.value, found.error, found.runs] == [pytest.approx(0.25), pytest.approx(0.1), 3]
    assert reaches is None
    difference = results.difference(cell)
    assert difference is not None
    assert [difference.value, difference.error] == pytest.approx([0.25, sqrt(0.1**2 + 0.15**2)])


def test_there_is_no_difference_before_both_have_run_and_none_without_a_base(tmp_path: Path) -> None:
    base, changed = Setting("mnist_lenet300_5"), Setting("mnist_lenet300_5", (("growth", "random"),))
    finish(tmp_path, changed, 0, 1.7)
    results = MeasuredCells(tmp_path)
    assert results.entry(Cell(5, None, changed, base=base)) == (None, None)
    assert results.difference(Cell(5, None, changed, base=base)) is None
    assert results.difference(Cell(5, None, changed)) is None
    assert results.difference(Cell(5, Published("2.0"))) is None


def test_other_measures_are_in_percent_too(tmp_path: Path) -> None:
    setting = Setting("imagenet_resnet50_10")
    finish(tmp_path, setting, 0, 27.0, accuracy_top5=0.915)
    results = MeasuredCells(tmp_path)
    values = [results.mean(setting, measure) for measure in ("error", "accuracy", "accuracy_top5")]  # type: ignore[arg-type]  # literals
    assert [each.value for each in values if each is not None] == pytest.approx([27.0, 73.0, 91.5])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metrics": {}, "seed": 0}', '{"metrics": {"accuracy": 0.9}}'])
def test_a_file_that_is_no_result_is_an_error_with_the_cure(tmp_path: Path, text: str) -> None:
    file = Experiment(Setting("mnist_lenet300_5"), 0).result_file(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(ValueError, match=r"Expected the result of a run.*seed0.json; got .*Cure: delete it"):
        MeasuredCells(tmp_path).runs(Setting("mnist_lenet300_5"))
