"""Accuracies over training, and results beside published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_sparse.analysis.pictures.inputs import check_not_empty
from lightning_sparse.analysis.pictures.style import colour, finish, marker, new_axes, style, whole_ticks

# A value and its standard error, None if unknown.
Point = tuple[float, float | None]


def plot_accuracy(accuracies: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Figure:
    """Draw validation accuracy over epochs, one line per network.

    Args:
        accuracies: Accuracy in [0, 1] after each epoch, by network.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If there is nothing to draw.
    """
    check_not_empty(accuracies, "network")
    axes = new_axes(ax)
    for index, (network, values) in enumerate(accuracies.items()):
        epochs, percent = range(1, len(values) + 1), [100 * value for value in values]
        mark = "o" if len(values) == 1 else None
        axes.plot(epochs, percent, label=network, color=colour(index), linestyle=style(index), marker=mark)
    axes.set(xlabel="epoch", ylabel="validation accuracy (%)", title="Accuracy")
    whole_ticks(axes)
    return finish(axes)


def plot_beside_published(
    labels: Sequence[str], series: Mapping[str, Sequence[Point | None]], xlabel: str, ax: Axes | None = None
) -> Figure:
    """Draw one row per label with a point per series, each with the bar of its 95 % interval.

    Args:
        labels: Labels of the rows, from top to bottom.
        series: One value with its standard error per label, or None, by name.
        xlabel: Measured quantity, with its unit.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If there is nothing to draw.
    """
    check_not_empty(series, "series")
    axes = new_axes(ax)
    for index, (name, points) in enumerate(series.items()):
        # Side by side, so that equal values don't hide each other.
        rows = [row + 0.28 * (index - (len(series) - 1) / 2) for row in range(len(labels))]
        drawn = [(point, row) for point, row in zip(points, rows, strict=True) if point is not None]
        axes.errorbar(
            [value for (value, _), _ in drawn],
            [row for _, row in drawn],
            xerr=[1.96 * (error or 0) for (_, error), _ in drawn],
            fmt=marker(index),
            color=colour(index),
            label=name,
        )
    axes.set(xlabel=xlabel, yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5))
    axes.set_yticklabels(labels)
    return finish(axes)


def plot_over_density(
    series: Mapping[str, Sequence[tuple[float, Point]]], ylabel: str, ax: Axes | None = None
) -> Figure:
    """Draw curves over the percentage of active weights, each point with the bar of its 95 % interval.

    Args:
        series: Percentages of active weights and values with their standard errors, by name. A single point at 100 % is
            drawn as a horizontal line: the dense network. A name without points is not drawn but keeps its colour.
        ylabel: Measured quantity, with its unit.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If there is nothing to draw.
    """
    check_not_empty(series, "series")
    axes = new_axes(ax)
    for index, (name, points) in enumerate(series.items()):
        if not points:
            continue
        look: dict[str, Any] = {"color": colour(index), "linestyle": style(index), "label": name}
        if len(points) == 1 and points[0][0] == 100:
            axes.axhline(points[0][1][0], **look)
            continue
        ordered = sorted(points)
        axes.errorbar(
            [weights for weights, _ in ordered],
            [value for _, (value, _) in ordered],
            yerr=[1.96 * (error or 0) for _, (_, error) in ordered],
            marker=marker(index),
            **look,
        )
    axes.set(xlabel="active weights (%)", ylabel=ylabel)
    return finish(axes)
