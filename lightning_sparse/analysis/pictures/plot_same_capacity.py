"""Sparse against dense networks of the same capacity: over widths, over epochs, and the tests of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_sparse.analysis.pictures.inputs import check_not_empty
from lightning_sparse.analysis.pictures.style import colour, figure_of, finish, marker, new_axes, style, whole_ticks

# A mean with the ends of its interval.
Interval = tuple[float, float, float]


def plot_over_width(
    series: Mapping[str, Mapping[float, Interval]], ylabel: str, title: str = "", ax: Axes | None = None
) -> Figure:
    """Draw means over the width of the dense network, with the bars of their intervals.

    Args:
        series: By name, mean and ends of the interval by width.
        ylabel: Measured quantity, with its unit.
        title: Title of the picture.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If there is nothing to draw.
    """
    check_not_empty(series, "series")
    axes = new_axes(ax)
    for index, (name, points) in enumerate(series.items()):
        widths = sorted(points)
        means = [points[width][0] for width in widths]
        bars = [[points[width][0] - points[width][1], points[width][2] - points[width][0]] for width in widths]
        look: dict[str, Any] = {"color": colour(index), "linestyle": style(index), "marker": marker(index)}
        axes.errorbar(widths, means, yerr=np.transpose(bars), label=name, capsize=2, **look)
    axes.set(xlabel="width of the dense network", ylabel=ylabel, title=title)
    return finish(axes)


def plot_over_epochs(
    series: Mapping[str, Sequence[Sequence[float]]],
    epochs: Sequence[int],
    ylabel: str,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw the median over runs at each measured epoch, with the range of the middle half.

    Args:
        series: By name, one sequence of values per run, one value per epoch.
        epochs: Numbers of the measured epochs.
        ylabel: Measured quantity.
        title: Title of the picture.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If there is nothing to draw.
    """
    check_not_empty(series, "series")
    axes = new_axes(ax)
    for index, (name, runs) in enumerate(series.items()):
        low, middle, high = np.percentile(np.asarray(runs, float), [25, 50, 75], axis=0)
        axes.plot(epochs, middle, label=name, color=colour(index), linestyle=style(index), marker=marker(index))
        axes.fill_between(epochs, low, high, color=colour(index), alpha=0.2, linewidth=0)
    axes.set(xlabel="epoch", ylabel=ylabel, title=title)
    axes.set_yscale("log")
    whole_ticks(axes)
    return finish(axes)


def plot_tests(
    p_values: Mapping[tuple[str, str], float],
    effects: Mapping[tuple[str, str], float],
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw tests as a heat map of their effect sizes, with the p-values as numbers, bold at 0.05 and below.

    Args:
        p_values: P-value by row and column.
        effects: Effect size in [-1, 1] by row and column: above zero, the sparse network is better.
        title: Title of the picture.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If there is nothing to draw.
    """
    check_not_empty({row: p for (row, _), p in p_values.items()}, "test")
    rows, columns = (list(dict.fromkeys(key[index] for key in p_values)) for index in (0, 1))
    axes = new_axes(ax, 2.5 + 0.9 * len(columns), 1.6 + 0.5 * len(rows))
    grid = np.array([[effects.get((row, column), np.nan) for column in columns] for row in rows])
    image = axes.imshow(grid, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    for (row, column), p in p_values.items():
        place = (columns.index(column), rows.index(row))
        strong = abs(effects[row, column]) > 0.6
        look: dict[str, Any] = {"color": "white" if strong else "black", "weight": "bold" if p <= 0.05 else "normal"}
        axes.text(*place, f"{p:.3f}" if p >= 0.001 else f"{p:.0e}", ha="center", va="center", **look)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title)
    figure_of(axes).colorbar(image, ax=axes, label="rank-biserial correlation\n(> 0: sparse is better)")
    return figure_of(axes)
