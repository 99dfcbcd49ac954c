"""Pictures of studies: what shares an axis, a colour or a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from test_report import DENSE, RANDOM, SPARSE, STUDY
from test_results import finish

from lightning_sparse.experiments.setting import SMALL
from lightning_sparse.reproduction.drawing import picture
from lightning_sparse.reproduction.measured import MeasuredCells
from lightning_sparse.reproduction.studies import STUDIES


def points(axes: Axes) -> dict[str, list[float]]:
    return {str(bars.get_label()): list(bars.lines[0].get_xdata()) for bars in axes.containers}  # type: ignore[attr-defined]  # of error bars


def colour(handle: Any) -> str:
    found = getattr(handle, "lines", [handle])[0].get_color()
    return to_hex(found if isinstance(found, str) else found[0])


def colours(axes: Axes) -> dict[str, str]:
    handles, labels = axes.get_legend_handles_labels()
    return {label: colour(handle) for label, handle in zip(labels, handles, strict=True)}


def measure_partly(folder: Path, name: str, columns: list[str]) -> MeasuredCells:
    """Finish runs of these columns."""
    for _, row in STUDIES[name].rows:
        for column, cell in row.items():
            if column in columns and cell.setting is not None:
                finish(folder, cell.setting, 0, 3.0)
    return MeasuredCells(folder)


def test_levels_and_differences_have_axes_of_their_own_with_a_point_for_each_number(tmp_path: Path) -> None:
    for seed in (0, 1):
        finish(tmp_path, DENSE, seed, 1.30 + seed / 50)
        finish(tmp_path, SPARSE, seed, 1.32 + seed / 50)
        finish(tmp_path, RANDOM, seed, 1.22 + seed / 50)
    a, b, difference = picture(STUDY, MeasuredCells(tmp_path)).axes
    assert [axes.get_title() for axes in (a, b, difference)] == ["A", "B", "A"]
    assert points(a) == {"here": pytest.approx([1.31, 1.33]), "published": [1.34, 2.0, 1.53]}
    assert points(b) == {"here": [], "published": [0.58, 2.75]}
    assert points(difference) == {"here": pytest.approx([-0.10]), "published": [0.07]}
    assert (a.get_xlabel(), difference.get_xlabel()) == (
        "test error (%)",
        "difference of the test error (percentage points)",
    )


def test_table_5_has_levels_above_and_differences_below() -> None:
    grid = picture(STUDIES["table5"], MeasuredCells(Path("none"))).axes
    published = [points(axes)["published"] for axes in grid]
    assert {axes.get_xscale() for axes in grid} == {"linear"}  # 0 is among differences, even if none is negative
    assert published[:3] == [[6.49], [1.53], [0.69]]
    assert published[3:] == [[-0.15, 0.79, 0.49], [0.07, 0.01, 0.11], [-0.05, 0.32, 0.13]]


@pytest.mark.parametrize("name", ["figure2", "compression"])
def test_a_name_has_one_colour_in_all_parts_whatever_was_measured(tmp_path: Path, name: str) -> None:
    first, second = STUDIES[name].columns
    for measured in ([], [first], [second], [first, second]):
        figure = picture(STUDIES[name], measure_partly(tmp_path / "-".join(measured), name, measured))
        left, right = map(colours, figure.axes)
        assert "sparse momentum, published" in left
        assert ("sparse momentum, here" in left, "sparse momentum, here" in right) == (
            first in measured,
            second in measured,
        )
        assert all(left[label] == right[label] for label in set(left) & set(right))
        (legend,) = figure.legends
        texts = [text.get_text() for text in legend.get_texts()]
        assert {text: colour(handle) for text, handle in zip(texts, legend.legend_handles, strict=True)} == left | right


def test_our_numbers_have_the_same_colours_in_every_curve(tmp_path: Path) -> None:
    names = ["dense, here", "dense, published", "sparse momentum, here", "sparse momentum, published"]
    found = []
    for study in ("figure2", "compression"):
        results = measure_partly(tmp_path / study, study, STUDIES[study].columns)
        drawn = colours(picture(STUDIES[study], results).axes[0])
        found.append([drawn[name] for name in names])
    assert found[0] == found[1]
    assert len(set(found[0])) == 4


@pytest.mark.parametrize("name", STUDIES)
def test_the_legend_covers_no_part_and_names_what_is_drawn(name: str) -> None:
    figure: Figure = picture(STUDIES[name], MeasuredCells(Path("none")))
    assert not any(axes.get_legend() for axes in figure.axes)
    (legend,) = figure.legends
    figure.draw_without_rendering()
    frame = legend.get_window_extent()
    assert 0 <= frame.x0 < frame.x1 <= figure.bbox.width
    assert frame.y0 >= 0
    for axes in figure.axes:
        taken = axes.get_tightbbox()
        assert taken is not None
        assert frame.y1 < taken.y0
        assert axes.get_window_extent().height > 50  # the legend leaves room
    assert not any("here" in text.get_text() for text in legend.get_texts())


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    figure = picture(STUDIES["compression"], MeasuredCells(Path("none")))
    axes = figure.axes[0]
    figure.draw_without_rendering()
    assert axes.get_xscale() == "log"
    assert {"1", "2", "5"} <= {label.get_text() for label in axes.get_xticklabels()}


def test_an_outlier_does_not_hide_the_rest() -> None:
    scales = {
        axes.get_title(): axes.get_xscale()
        for axes in picture(STUDIES["sensitivity"], MeasuredCells(Path("none"))).axes
    }
    assert scales == {
        "AlexNet-s, sparse": "linear",
        "AlexNet-s, dense": "linear",
        "VGG16-D, sparse": "log",
        "VGG16-D, dense": "log",
    }


def test_labels_that_are_those_to_the_left_are_not_repeated() -> None:
    axes = picture(STUDIES["table5"], MeasuredCells(Path("none"))).axes[:3]
    assert [each.yaxis.get_tick_params()["labelleft"] for each in axes] == [True, False, False]
    different = picture(STUDIES["table2"], MeasuredCells(Path("none"))).axes  # 100 %, then 10 % twice
    assert [each.yaxis.get_tick_params()["labelleft"] for each in different] == [True, True, False]


def test_a_small_scale_is_named_in_the_picture(tmp_path: Path) -> None:
    assert "small scale" in picture(STUDY, MeasuredCells(tmp_path, SMALL)).get_suptitle()
    assert "small scale" not in picture(STUDY, MeasuredCells(tmp_path)).get_suptitle()
