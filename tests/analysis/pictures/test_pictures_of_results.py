"""Pictures of results show the numbers passed to them, with units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from drawn import containers, legend_texts, line, only, ys
from matplotlib.figure import Figure

from lightning_sparse.analysis.pictures import Point, plot_accuracy, plot_beside_published, plot_over_density


def test_accuracy_starts_at_epoch_1() -> None:
    axes = only(plot_accuracy({"dense": [0.5, 0.75]}).axes)
    assert list(line(axes, "dense").get_xdata()) == [1, 2]
    np.testing.assert_allclose(ys(axes, "dense"), [50, 75])
    assert "%" in axes.get_ylabel()


def test_a_single_epoch_is_seen_as_a_point() -> None:
    assert line(only(plot_accuracy({"dense": [0.5]}).axes), "dense").get_marker() == "o"


def test_given_axes_are_drawn_into() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    assert plot_accuracy({"dense": [0.5]}, ax=axes) is figure
    assert len(axes.lines) == 1


def test_measured_numbers_stand_beside_published_ones_with_95_percent_intervals() -> None:
    series: dict[str, Sequence[Point | None]] = {"here": [(1.5, 0.1), None], "published": [(1.4, None), (2.0, 0.2)]}
    axes = only(plot_beside_published(["first", "second"], series, "test error (%)").axes)
    here, published = containers(axes)
    assert list(here.lines[0].get_xdata()) == [1.5]
    assert list(published.lines[0].get_xdata()) == [1.4, 2.0]
    (bars,) = here.lines[2]
    np.testing.assert_allclose(bars.get_segments()[0][:, 0], [1.5 - 0.196, 1.5 + 0.196])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert axes.get_ylim() == (1.5, -0.5)  # from top to bottom
    assert legend_texts(axes) == ["here", "published"]


def test_curves_over_density_are_ordered_and_a_dense_network_is_a_line() -> None:
    series: dict[str, Sequence[tuple[float, Point]]] = {
        "sparse": [(5.0, (98.5, 0.1)), (1.0, (97.5, None))],
        "dense": [(100.0, (98.7, 0.1))],
    }
    axes = only(plot_over_density(series, "accuracy (%)").axes)
    assert list(containers(axes)[0].lines[0].get_xdata()) == [1.0, 5.0]
    np.testing.assert_allclose(ys(axes, "dense"), [98.7, 98.7])
    assert axes.get_ylabel() == "accuracy (%)"


def test_nothing_to_draw_is_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match=r"Expected at least one network to draw; got none. Cure: "):
        plot_accuracy({})
    with pytest.raises(ValueError, match=r"Expected at least one series to draw; got none. Cure: "):
        plot_beside_published([], {}, "error (%)")
    with pytest.raises(ValueError, match=r"Expected at least one series to draw; got none. Cure: "):
        plot_over_density({}, "error (%)")


def test_a_curve_without_points_is_not_drawn_and_the_others_keep_their_colours() -> None:
    points: list[tuple[float, Point]] = [(1.0, (97.5, None)), (5.0, (98.5, 0.1))]
    (with_all,) = plot_over_density({"first": points, "second": points}, "accuracy (%)").axes
    (with_one,) = plot_over_density({"first": [], "second": points}, "accuracy (%)").axes
    assert [bars.get_label() for bars in with_one.containers] == ["second"]
    colours = [bars.lines[0].get_color() for bars in (with_all.containers[1], with_one.containers[0])]  # type: ignore[attr-defined]  # error bars
    assert colours[0] == colours[1] != with_all.containers[0].lines[0].get_color()  # type: ignore[attr-defined]  # error bars
