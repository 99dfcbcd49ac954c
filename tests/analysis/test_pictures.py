"""Pictures show the numbers that they are given, with units."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from lightning_sparse.analysis.pictures import plot_accuracy, plot_layer_densities


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
