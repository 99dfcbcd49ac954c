"""Whatever a project logged, over its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_sparse.analysis.pictures.style import colour, finish, marker, new_axes, point_marker, style
from lightning_sparse.report.run_log import Point


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
            label=name,
            marker=mark,
            color=colour(index),
            linestyle=style(index),
        )
    axes.set(xlabel="step", ylabel=ylabel)
    return finish(axes)
