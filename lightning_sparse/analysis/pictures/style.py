"""Colours, marks, legends and axes, the same in all pictures.

A few layers have a colour and a line style each and a legend. Many layers are coloured by their depth, from dark to
light, and a colour bar names some of them: a legend of fifty lines would hide the picture, and fifty colours can't be
distinguished.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

# The palette of Okabe & Ito, distinct for any colour vision; without its yellow, which is hardly visible on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
# Line styles, markers and hatches repeat the distinction for print. None of their counts divides the number of colours,
# so that the eighth line differs from the first.
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++", "oo")
# Most layers that have a legend.
FEW = 10
# Number of names beside a colour bar of the usual height.
_NAMED = 16
# Most names along an axis.
_TICKS = 80
# Look of marks on lines, visible on each colour.
MARK: dict[str, Any] = {"s": 56, "edgecolors": "black", "linewidths": 0.8, "zorder": 5}
_SMALL: dict[str, Any] = {"fontsize": "small"}
# Most points that are marked each; with more, marks would hide the line.
_MARKED = 25


def colour(index: int) -> str:
    """Return the colour of a series."""
    return COLOURS[index % len(COLOURS)]


def style(index: int) -> str:
    """Return the line style of a series."""
    return STYLES[index % len(STYLES)]


def marker(index: int) -> str:
    """Return the marker of a series."""
    return MARKERS[index % len(MARKERS)]


def point_marker(points: int) -> str | None:
    """Return the marker of a line's points, None if there are many; a single point makes no line."""
    return "o" if points <= _MARKED else None


def layer_colour(index: int, layers: int) -> Any:
    """Return the colour of a layer: from the palette if there are few layers, else by its depth."""
    return colour(index) if layers <= FEW else _depth_colours(layers)[index]


def layer_line(index: int, layers: int, points: int) -> dict[str, Any]:
    """Return colour, line style and marks of a layer's line."""
    return {
        "color": layer_colour(index, layers),
        "linestyle": style(index) if layers <= FEW else "-",
        "linewidth": 1.6 if layers <= FEW else 1.1,
        "marker": point_marker(points),
        "markersize": 3,
    }


def layer_area(index: int, layers: int) -> dict[str, Any]:
    """Return colour and hatch of a layer's area."""
    few = layers <= FEW
    hatch = HATCHES[index % len(HATCHES)] if few else ""
    return {
        "facecolor": layer_colour(index, layers),
        "edgecolor": "white",
        "hatch": hatch,
        "linewidth": 0.6 if few else 0,
    }


def _depth_colours(layers: int) -> Any:
    # The map's brightness rises evenly, also in print; its end, a yellow, is left out.
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.9, layers))


def new_axes(ax: Axes | None, width: float = 7, height: float = 4.2) -> Axes:
    """Return the axes passed, or the axes of a new figure of this width and height in inches."""
    if ax is not None:
        return ax
    # A Figure without pyplot needs no display and is not kept alive. The layout may be wrong by a few dots, so it has
    # more space at the edges than its default of 0.04 inches.
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    return Figure(figsize=(width, height), dpi=150, layout=layout).add_subplot()


def figure_of(axes: Axes) -> Figure:
    """Return the whole figure that axes belong to."""
    figure = axes.figure
    while not isinstance(figure, Figure):  # a subfigure
        figure = figure.figure
    return figure


def name_layers(axes: Axes, names: Sequence[str]) -> None:
    """Name layers beside the axes: in a legend if there are few, else along a bar with their colours.

    Args:
        axes: Axes with one labelled artist per layer.
        names: Names of the layers, in the order of the model.
    """
    if len(names) <= FEW:
        legend_beside(axes, names)
        return
    named = sorted({round(index) for index in np.linspace(0, len(names) - 1, min(_NAMED, len(names)))})
    colours = ListedColormap(_depth_colours(len(names)))
    scale = ScalarMappable(BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names)), colours)
    bar = figure_of(axes).colorbar(scale, ax=axes, ticks=named, fraction=0.04, pad=0.02)
    bar.ax.set_yticklabels([names[index] for index in named], **_SMALL)
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()
    bar.set_label("layer, in the order of the model")


def legend_beside(axes: Axes, labels: Collection[str]) -> None:
    """Put a legend of the artists that have these labels to the right of the axes."""
    handles = _handles(axes, labels)
    axes.legend(handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, **_SMALL)


def legend_above(axes: Axes, labels: Collection[str], title: str) -> None:
    """Put a legend of the artists that have these labels above the axes, beside the title."""
    handles = _handles(axes, labels)
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.3, "frameon": False}
    axes.legend(handles.values(), handles.keys(), ncols=len(handles), columnspacing=1, **place, **_SMALL)
    axes.set_title(title, loc="left")


def name_ticks(axis: Axis, names: Sequence[str], *, upright: bool = False) -> None:
    """Put names of layers at 0, 1, 2, ... along an axis; only some if there are very many.

    Args:
        axis: Axis of the layers.
        names: Names of the layers, in the order of the model.
        upright: Whether to turn names by 90 degrees.
    """
    named = range(0, len(names), 1 + (len(names) - 1) // _TICKS)
    axis.set_ticks(list(named), [names[index] for index in named], rotation=90 if upright else 0, **_SMALL)


def whole_numbers() -> MaxNLocator:
    """Return a locator of ticks at whole numbers."""
    return MaxNLocator(integer=True, steps=[1, 2, 5, 10])


def whole_ticks(axes: Axes) -> None:
    """Put the ticks of the horizontal axis (epochs or steps) at whole numbers."""
    axes.xaxis.set_major_locator(whole_numbers())


def differ_widely(values: NDArray[Any]) -> bool:
    """Tell whether the positive values differ by a factor of ten, too much for a linear scale."""
    positive = values[np.isfinite(values) & (values > 0)]
    return bool(positive.size and positive.max() >= 10 * positive.min())


def plain_log_scale(axes: Axes, values: NDArray[Any]) -> None:
    """Make the vertical axis logarithmic, with plain numbers at its ticks and enough ticks for these values."""
    axes.set_yscale("log")
    positive = values[np.isfinite(values) & (values > 0)]
    few_decades = positive.size and positive.max() < 300 * positive.min()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,), numticks=12))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def mark_edge(axes: Axes, edge: str, xs: Sequence[float], colours: Sequence[Any], mark: str, label: str) -> None:
    """Mark points that the scale can't show at an edge of the axes.

    Args:
        axes: Axes of the picture.
        edge: "top" or "bottom".
        xs: Places along the edge, in data coordinates. If there are none, there is no mark and no label.
        colours: Colour of each mark.
        mark: Matplotlib's marker.
        label: Meaning of the marks, for the legend.
    """
    if len(xs):
        height = np.full(len(xs), 0.975 if edge == "top" else 0.025)
        transform = axes.get_xaxis_transform()
        axes.scatter(xs, height, c=list(colours), marker=mark, label=label, transform=transform, **MARK)


def name_marks(axes: Axes, labels: Collection[str]) -> None:
    """Name the marks that have these labels in a legend of their own, below the axes."""
    if handles := _handles(axes, labels):
        place: dict[str, Any] = {
            "loc": "upper left",
            "bbox_to_anchor": (0, 0),
            "borderaxespad": 5,
        }  # below the labels
        below = Legend(axes, list(handles.values()), list(handles), **place, **_SMALL)
        axes.add_artist(below)
        below.set_clip_on(False)  # else the layout would leave no room for it


def _handles(axes: Axes, labels: Collection[str]) -> dict[str, Any]:
    """Return the first artist with each of these labels that is in the axes."""
    first: dict[str, Any] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        if label in labels:
            first.setdefault(label, handle)
    return {label: first[label] for label in labels if label in first}


def finish(axes: Axes, *, legend: bool = True) -> Figure:
    """Add a grid and a legend, and return the figure."""
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    if legend:
        axes.legend()
    return figure_of(axes)
