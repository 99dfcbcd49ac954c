"""Curves of logged metrics, and quartiles by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_sparse.analysis.pictures.inputs import as_text, short_names
from lightning_sparse.analysis.pictures.style import (
    colour,
    finish,
    legend_above,
    marker,
    name_ticks,
    new_axes,
    point_marker,
    style,
)
from lightning_sparse.report.run_log import Point


class Quartiles(NamedTuple):
    """Statistics of a layer's channels; NaN if not in the log."""

    mean: float
    q25: float
    median: float
    q75: float


def plot_quartiles(runs: Mapping[str, Mapping[str, Quartiles]], ylabel: str, ax: Axes | None = None) -> Figure:
    """Draw each layer's quartiles as a bar with a line at the median and a mark at the mean, runs side by side.

    Args:
        runs: Quartiles by run and layer; layers in the order of the first run that has them.
        ylabel: Quantity, with its unit.
        ax: Axes to draw into; default: a new figure, wide enough for all layers.
    """
    layers = list(dict.fromkeys(layer for quartiles in runs.values() for layer in quartiles))
    axes = new_axes(ax, width=min(24, max(7, 1 + 0.32 * len(layers))))
    width = 0.7 / len(runs)
    for index, (run, quartiles) in enumerate(runs.items()):
        places = [at + (index - (len(runs) - 1) / 2) * width for at, layer in enumerate(layers) if layer in quartiles]
        values = [quartiles[layer] for layer in layers if layer in quartiles]
        heights = [value.q75 - value.q25 for value in values]
        lows = [value.q25 for value in values]
        axes.bar(places, heights, width * 0.9, lows, color=colour(index), alpha=0.4, label=as_text(run))
        ends = [(place - width * 0.45, place + width * 0.45) for place in places]
        axes.hlines([value.median for value in values], *zip(*ends, strict=True), color=colour(index), linewidth=2)
        means = [value.mean for value in values]
        axes.plot(places, means, linestyle="", marker=marker(index), color=colour(index))
    axes.set(ylabel=ylabel, xlim=(-0.6, len(layers) - 0.4))
    name_ticks(axes.xaxis, short_names(layers), upright=len(layers) > 5)
    legend_above(axes, [as_text(run) for run in runs], "")
    return finish(axes, legend=False)


def plot_curves(curves: Mapping[str, Sequence[Point]], ylabel: str, ax: Axes | None = None) -> Figure:
    """Draw logged metrics over steps.

    Args:
        curves: Logged points by name.
        ylabel: Quantity, with its unit if it has one.
        ax: Axes to draw into; default: a new figure.
    """
    axes = new_axes(ax)
    for index, (name, points) in enumerate(curves.items()):
        finite = [point for point in points if isfinite(point.value)]
        mark = marker(index) if point_marker(len(finite)) else None
        axes.plot(
            [point.step for point in finite],
            [point.value for point in finite],
            label=as_text(name),
            marker=mark,
            color=colour(index),
            linestyle=style(index),
        )
    axes.set(xlabel="step", ylabel=ylabel)
    return finish(axes)
