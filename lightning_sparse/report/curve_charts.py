"""What a project logged, over its run, and quartiles by layer."""

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
    """What is known of a layer's channels; NaN where the log doesn't say."""

    mean: float
    q25: float
    median: float
    q75: float


def plot_quartiles(runs: Mapping[str, Mapping[str, Quartiles]], ylabel: str, ax: Axes | None = None) -> Figure:
    """Draw each layer's quartiles as a bar with a line at the median and a mark at the mean, runs side by side.

    Args:
        runs: By run, by layer; layers in the order of the first run that has them.
        ylabel: What they are, with the unit.
        ax: Where to draw; default: a new figure, wide enough for all layers.
    """
    layers = list(dict.fromkeys(layer for found in runs.values() for layer in found))
    axes = new_axes(ax, width=min(24, max(7, 1 + 0.32 * len(layers))))
    width = 0.7 / len(runs)
    for index, (run, found) in enumerate(runs.items()):
        places = [at + (index - (len(runs) - 1) / 2) * width for at, layer in enumerate(layers) if layer in found]
        values = [found[layer] for layer in layers if layer in found]
        heights = [each.q75 - each.q25 for each in values]
        lows = [each.q25 for each in values]
        axes.bar(places, heights, width * 0.9, lows, color=colour(index), alpha=0.4, label=as_text(run))
        ends = [(place - width * 0.45, place + width * 0.45) for place in places]
        axes.hlines([each.median for each in values], *zip(*ends, strict=True), color=colour(index), linewidth=2)
        means = [each.mean for each in values]
        axes.plot(places, means, linestyle="", marker=marker(index), color=colour(index))
    axes.set(ylabel=ylabel, xlim=(-0.6, len(layers) - 0.4))
    name_ticks(axes.xaxis, short_names(layers), upright=len(layers) > 5)
    legend_above(axes, [as_text(run) for run in runs], "")
    return finish(axes, legend=False)


def plot_curves(curves: Mapping[str, Sequence[Point]], ylabel: str, ax: Axes | None = None) -> Figure:
    """Draw logged numbers over steps.

    Args:
        curves: By name.
        ylabel: What they are.
        ax: Where to draw; default: a new figure.
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
