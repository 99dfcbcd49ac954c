"""From result files to tables, pictures and a page."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from studies import finish, study

from lightning_sparse.cli import main
from lightning_sparse.comparison.command import compare
from lightning_sparse.comparison.correlations import correlation
from lightning_sparse.comparison.figures import accuracy_figure, flow_figure, heat_map
from lightning_sparse.comparison.measured import MeasuredStudy
from lightning_sparse.comparison.output import as_csv, as_markdown, as_page
from lightning_sparse.comparison.study import Cell, SameCapacityStudy
from lightning_sparse.comparison.tables import correlations, flow_table, results_table


def better_with_batch_norm(cell: Cell, width: float, seed: int, side: str) -> dict[str, Any]:
    """Let sparse networks be better by 1, 2, 3, 4 images with batch normalization, and worse by as many without."""
    by = int(width / 3 + 2 * seed) * (1 if cell.regularizer == "bn" else -1)
    correct = 900 + (by if side == "sparse" else 0)
    return {"correct": correct, "test_loss": 1 - correct / 1000}


@pytest.fixture
def measured(tmp_path: Path) -> MeasuredStudy:
    finish(tmp_path, study(), better_with_batch_norm)
    return MeasuredStudy(study(), tmp_path)


def test_tests_are_those_of_the_pairs_of_a_cell(measured: MeasuredStudy) -> None:
    head, *rows = results_table(measured)
    assert head[1:4] == ["pairs", "wins / ties / losses", "sparse (%)"]
    by_name = {row[0]: row for row in rows}
    assert list(by_name) == ["momentum, none", "momentum, bn", "adam, none", "adam, bn"]
    with_norm, without = by_name["adam, bn"], by_name["adam, none"]
    assert with_norm[1:5] == ["4", "4 / 0 / 0", "90.25", "90.00"]
    assert (with_norm[5], with_norm[6], with_norm[7]) == ("+0.250", "+1.00", "0.0625")
    assert (without[2], without[6], without[7]) == ("0 / 0 / 4", "-1.00", "1.0000")
    assert with_norm[8] == "0.2500"  # four tests


def test_pairs_of_which_one_is_missing_do_not_count(tmp_path: Path) -> None:
    finish(tmp_path, study(), better_with_batch_norm)
    file = next(tmp_path.rglob("adam*/bn/**/seed1-sparse.json"))
    file.unlink()
    assert {len(result.pairs) for result in MeasuredStudy(study(), tmp_path).cells} == {3, 4}


def test_diverged_pairs_are_counted_and_not_tested(tmp_path: Path) -> None:
    def one_diverges(cell: Cell, width: float, seed: int, side: str) -> dict[str, Any]:
        return {**better_with_batch_norm(cell, width, seed, side), "diverged": (width, seed, side) == (3, 0, "sparse")}

    finish(tmp_path, study(), one_diverges)
    measured = MeasuredStudy(study(), tmp_path)
    assert {(result.diverged, result.test.pairs) for result in measured.cells} == {(1, 3)}
    assert {row[-1] for row in results_table(measured)[1:]} == {"1"}
    assert as_page(measured)


def test_nothing_but_diverged_pairs_has_no_numbers(tmp_path: Path) -> None:
    finish(tmp_path, study(), lambda *_: {"diverged": True, "gradient_flow": []})
    measured = MeasuredStudy(study(), tmp_path)
    assert {tuple(row[1:]) for row in results_table(measured)[1:]} == {
        ("0", "0 / 0 / 0", "-", "-", "-", "+0.00", "1.0000", "1.0000", "4")
    }
    assert as_markdown(measured)
    assert as_page(measured)


def test_more_seeds_than_the_study_has_count(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(FILE)
    mine = replace(SameCapacityStudy.read(str(tmp_path / "mine.yaml")), seeds=5)
    finish(tmp_path, mine, lambda *_: {"correct": 900})
    compare(str(tmp_path / "mine.yaml"), seeds=5, results=tmp_path, data=tmp_path)
    assert "; 5 seeds, " in (tmp_path / "mine" / "study.md").read_text()
    assert "| 5 | 0 / 5 / 0 |" in (tmp_path / "mine" / "study.md").read_text()


def test_gradient_flow_is_level_and_unsteadiness(measured: MeasuredStudy) -> None:
    rows = flow_table(measured)
    assert rows[1][1:] == ["2", "2", "0.408", "0.408"]  # of 1, 2, 3: standard deviation 0.816 over mean 2


def test_correlations_are_within_a_depth_over_all_networks(tmp_path: Path) -> None:
    def flow_follows_loss(cell: Cell, width: float, seed: int, side: str) -> dict[str, Any]:
        told = better_with_batch_norm(cell, width, seed, side)
        return {**told, "gradient_flow": [{"epoch": 0, "egf_l1": told["test_loss"], "egf_l2": 1, "l1": width, "l2": 1}]}

    deep = study(depths=(1, 2))
    finish(tmp_path, deep, flow_follows_loss)
    found = correlations(MeasuredStudy(deep, tmp_path))
    assert set(found) == {1, 2}
    for depth in found:
        assert found[depth]["egf_l1", "loss"].tau == pytest.approx(1)
        assert found[depth]["egf_l1", "accuracy"].tau == pytest.approx(-1)
        assert abs(found[depth]["l1", "loss"].tau) < 0.2
        assert found[depth]["l1", "loss"].runs == 32
        assert found[depth]["l1", "loss"].low < 0 < found[depth]["l1", "loss"].high


def test_a_correlation_without_any_change_is_unknown() -> None:
    constant = correlation([1, 1, 1], [1, 2, 3])
    assert constant.tau != constant.tau
    assert constant.low != constant.low


def test_pairs_are_lines_of_numbers(measured: MeasuredStudy) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(measured))))
    assert len(lines) == 32
    assert {(line["side"], line["images"], line["active"]) for line in lines} == {
        ("dense", "1000", "30"),
        ("sparse", "1000", "30"),
    }


def test_pictures_have_a_part_for_each_cell(measured: MeasuredStudy) -> None:
    assert [axes.get_title() for axes in accuracy_figure(measured).axes] == [
        row[0] for row in results_table(measured)[1:]
    ]
    assert len(flow_figure(measured).axes) == 4
    heat, _bar = heat_map(measured).axes
    assert [text.get_text() for text in heat.texts] == ["1.000", "0.062", "1.000", "0.062"]
    assert [label.get_text() for label in heat.get_yticklabels()] == ["momentum", "adam"]
    assert [label.get_text() for label in heat.get_xticklabels()] == ["none", "bn"]


def test_a_study_without_results_says_so(tmp_path: Path) -> None:
    measured = MeasuredStudy(study(), tmp_path)
    assert "No pair is finished yet." in as_markdown(measured)
    assert "No pair is finished yet." in as_page(measured)


def test_results_of_other_options_are_never_mixed_in(tmp_path: Path) -> None:
    finish(tmp_path, study(epochs=5), better_with_batch_norm)
    with pytest.raises(ValueError, match=r"Expected a result of the study as it is in .*; got one of other.*Cure"):
        MeasuredStudy(study(), tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"protocol": {}, "diverged": false}'])
def test_a_damaged_result_is_named(text: str, tmp_path: Path) -> None:
    finish(tmp_path, study(), better_with_batch_norm)
    file = next(tmp_path.rglob("seed0-sparse.json"))
    file.write_text(text)
    with pytest.raises(ValueError, match=r"Expected the result of a training, as JSON, in .*sparse.json; got.*Cure"):
        MeasuredStudy(study(), tmp_path)


FILE = """
title: A tiny study
max_width: 12
widths: [4]
optimizers: {adam: {class_path: torch.optim.Adam, learning_rates: [0.001]}}
data: {mnist: {class_path: lightning_sparse.data.MNISTDataModule, init_args: {val_fraction: 0.0}}}
epochs: 1
depths: [1]
seeds: 1
"""


def test_a_command_trains_what_is_missing_and_writes_the_page(
    small_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    arguments = ["compare", "mine.yaml", "--jobs", "2", "--data", str(small_images), "--threads_per_run", "1"]
    main(arguments)
    assert "0 of 2 runs are done; 2 to go" in capsys.readouterr().out
    folder = tmp_path / "comparison" / "mine"
    assert {path.name for path in folder.iterdir()} == {"study.md", "study.html", "pairs.csv", "mnist"}
    results = [json.loads(file.read_text()) for file in sorted(folder.rglob("seed*.json"))]
    assert [result["side"] for result in results] == ["dense", "sparse"]
    assert "| mnist/adam-0.001/none/relu-1 | 1 |" in (folder / "study.md").read_text()
    main(arguments)
    assert "2 of 2 runs are done; 0 to go" in capsys.readouterr().out


def test_without_seeds_nothing_is_trained_and_the_page_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(FILE)
    compare(str(tmp_path / "mine.yaml"), seeds=0, results=tmp_path / "results")
    assert (tmp_path / "results" / "mine" / "study.html").exists()


def test_negative_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected a number of seeds >= 0; got -1. Cure"):
        compare("mnist_reduced", seeds=-1, results=tmp_path)
