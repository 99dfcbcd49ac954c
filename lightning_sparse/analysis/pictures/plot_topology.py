"""Density per layer and redistribution of weights over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_sparse.analysis.pictures.inputs import as_array, as_fractions, check_series, short_names
from lightning_sparse.analysis.pictures.style import (
    differ_widely,
    finish,
    layer_area,
    layer_colour,
    layer_line,
    mark_edge,
    name_layers,
    name_marks,
    new_axes,
    plain_log_scale,
    whole_ticks,
)
from lightning_sparse.validation.errors import InvalidValueError

_EMPTY = "no active weight"


def plot_layer_densities(
    epochs: Sequence[float],
    densities: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
    *,
    xlabel: str = "epochs completed",
) -> Figure:
    """Draw the density of each layer over epochs, as steps; on a logarithmic scale if they differ by a factor of ten.

    Args:
        epochs: Completed epochs (or steps) of the densities, ascending.
        densities: By layer, in the order of the model: one density in [0, 1] per entry of `epochs`. A layer without
            active weights is marked at the lower edge, NaN leaves a gap.
        ax: Axes to draw into; default: a new figure.
        xlabel: Unit of `epochs`.

    Raises:
        ValueError: If there is nothing to draw, or a density is out of range.
    """
    check_series(epochs, densities)
    axes, names = new_axes(ax), short_names(densities)
    percent = np.array([100 * as_fractions(name, values) for name, values in densities.items()])
    logarithmic = differ_widely(percent)
    for index, (name, values) in enumerate(zip(names, percent, strict=True)):
        shown = np.where(values > 0, values, np.nan) if logarithmic else values
        look = {**layer_line(index, len(names), len(epochs)), "marker": "o" if len(epochs) == 1 else None}
        axes.step(epochs, shown, where="post", label=name, **look)
    if logarithmic:
        plain_log_scale(axes, percent)
        layer, at = np.nonzero(percent == 0)
        colours = [layer_colour(index, len(names)) for index in layer.tolist()]
        mark_edge(axes, "bottom", as_array(epochs)[at].tolist(), colours, "v", _EMPTY)
    else:
        axes.set_ylim(bottom=-0.02 * np.nanmax(percent, initial=1))  # shows a line at zero completely
    axes.set(xlabel=xlabel, ylabel="active weights of the layer (%)", title="Density per layer")
    whole_ticks(axes)
    name_layers(axes, names)
    name_marks(axes, [_EMPTY])
    return finish(axes, legend=False)


def plot_redistribution(
    epochs: Sequence[float],
    shares: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
    *,
    xlabel: str = "epochs completed",
) -> Figure:
    """Draw each layer's share of the regrown weights, update by update, as stacked areas.

    Areas, because the shares of an update are parts of one whole; steps, because nothing happens between updates. The
    first layer is on top. An update that moved no weight has no shares and leaves a gap.

    Args:
        epochs: Completed epochs (or steps) at the updates, strictly ascending.
        shares: By layer, in the order of the model: one share in [0, 1] per update; the shares of an update sum to at
            most 1. NaN counts as 0.
        ax: Axes to draw into; default: a new figure.
        xlabel: Unit of `epochs`.

    Raises:
        ValueError: If there is nothing to draw, shares are out of range, or epochs don't ascend.
    """
    check_series(epochs, shares)
    axes, names = new_axes(ax), short_names(shares)
    heights = 100 * np.nan_to_num([as_fractions(name, values) for name, values in shares.items()])
    below = 100 - np.cumsum(heights, axis=0)
    if below.min() < -0.1:
        raise InvalidValueError(
            expected="shares that sum to at most 1 in each update",
            got=f"{1 - below.min() / 100:g}",
            cure="divide claims by their sum",
        )
    edges = _edges(as_array(epochs))
    for index, (name, height, bottom) in enumerate(zip(names, heights, below, strict=True)):
        look = layer_area(index, len(names))
        axes.stairs(bottom + height, edges, baseline=bottom, fill=True, label=name, **look)
    axes.set(xlabel=xlabel, ylabel="share of the regrown weights (%)", title="Redistribution", ylim=(0, 100))
    axes.set_xlim(edges[0], edges[-1])
    whole_ticks(axes)
    name_layers(axes, names)
    return finish(axes, legend=False)


def _edges(centres: NDArray[np.float64]) -> NDArray[Any]:
    """Return the edges of the steps, in the middle between updates."""
    gaps = np.diff(centres)
    if (gaps <= 0).any():
        raise InvalidValueError(
            expected="epochs or steps that ascend strictly",
            got=centres.tolist(),
            cure="give steps where several updates are in one epoch",
        )
    first, last = (gaps[0], gaps[-1]) if len(gaps) else (1.0, 1.0)
    return np.concatenate(([centres[0] - first / 2], centres[:-1] + gaps / 2, [centres[-1] + last / 2]))
