"""Pictures show the numbers that they are given, with units."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from lightning_sparse.analysis.pictures import (
    plot_accuracy,
    plot_beside_published,
    plot_layer_densities,
    plot_over_density,
)


def test_densities_are_drawn_in_percent_with_one_named_line_per_layer() -> None:
    figure = plot_layer_densities([0, 1, 3], {"fc1": [0.05, 0.1, 0.2], "fc2": [0.05, 0.01, 0.01]})
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["fc1", "fc2"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [5, 10, 20])
    assert "%" in axes.get_ylabel()
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 2


def test_accuracy_starts_at_epoch_1() -> None:
    (axes,) = plot_accuracy({"dense": [0.5, 0.75]}).axes
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [1, 2])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [50, 75])


def test_given_axes_are_drawn_into() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    assert plot_accuracy({"dense": [0.5]}, ax=axes) is figure
    assert len(axes.lines) == 1


def test_measured_numbers_stand_beside_published_ones_with_95_percent_intervals() -> None:
    series = {"here": [(1.5, 0.1), None], "published": [(1.4, None), (2.0, 0.2)]}
    (axes,) = plot_beside_published(["first", "second"], series, "test error (%)").axes
    here, published = axes.containers
    assert list(here.lines[0].get_xdata()) == [1.5]
    assert list(published.lines[0].get_xdata()) == [1.4, 2.0]
    (bars,) = here.lines[2]
    np.testing.assert_allclose(bars.get_segments()[0][:, 0], [1.5 - 0.196, 1.5 + 0.196])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert axes.get_ylim() == (1.5, -0.5)  # from top to bottom


def test_curves_over_density_are_ordered_and_a_dense_network_is_a_line() -> None:
    series = {"sparse": [(5.0, (98.5, 0.1)), (1.0, (97.5, None))], "dense": [(100.0, (98.7, 0.1))]}
    (axes,) = plot_over_density(series, "accuracy (%)").axes
    assert list(axes.containers[0].lines[0].get_xdata()) == [1.0, 5.0]
    (dense,) = [line for line in axes.lines if line.get_label() == "dense"]
    np.testing.assert_allclose(dense.get_ydata(), [98.7, 98.7])
    assert axes.get_ylabel() == "accuracy (%)"


def test_a_curve_without_points_is_not_drawn_and_the_others_keep_their_colours() -> None:
    points = [(1.0, (97.5, None)), (5.0, (98.5, 0.1))]
    (with_all,) = plot_over_density({"first": points, "second": points}, "accuracy (%)").axes
    (with_one,) = plot_over_density({"first": [], "second": points}, "accuracy (%)").axes
    assert [bars.get_label() for bars in with_one.containers] == ["second"]
    colours = [bars.lines[0].get_color() for bars in (with_all.containers[1], with_one.containers[0])]
    assert colours[0] == colours[1] != with_all.containers[0].lines[0].get_color()
