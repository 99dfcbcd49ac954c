"""Gradient flow over training, of the whole network and layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Any, TypeGuard, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_sparse.analysis.pictures.inputs import (
    as_array,
    as_text,
    check_not_empty,
    check_series,
    first_names,
    short_names,
)
from lightning_sparse.analysis.pictures.plot_results import Point
from lightning_sparse.analysis.pictures.style import (
    MARK,
    colour,
    finish,
    layer_colour,
    layer_line,
    legend_beside,
    mark_edge,
    marker,
    name_layers,
    name_marks,
    new_axes,
    plain_log_scale,
    point_marker,
    style,
    whole_ticks,
)
from lightning_sparse.validation.errors import InvalidValueError

# One number per step, or one with its standard error.
Curve = Sequence[float] | Sequence[Point]
# The kinds of flags, each with a marker of its own.
FLAGS = {"vanishing": "v", "exploding": "^", "non-finite": "X"}
_MARKS = {**FLAGS, "zero": "d"}
_BROKEN = "NaN or infinite"
# Decades beyond the linear part of an axis that is linear near zero.
_DECADES = 6


@dataclass(frozen=True)
class _Line:
    """One curve: its name, its numbers and their 95 % intervals, and the numbers of its colour and line style."""

    name: str
    values: NDArray[np.float64]
    intervals: NDArray[np.float64] | None
    colour: int
    style: int


def plot_gradient_flow(
    steps: Sequence[float],
    measures: Mapping[str, Curve] | Mapping[str, Mapping[str, Curve]],
    xlabel: str = "epoch",
    ax: Axes | None = None,
) -> Figure:
    """Draw measures of gradient flow over training, on an axis that is linear near zero and logarithmic beyond.

    As Tessera, Hooker & Rosman (2021) draw it: such an axis shows zeros, which a logarithmic one can't. NaN and
    infinity leave a gap in the curve and are marked at the upper edge.

    Args:
        steps: Epochs or steps of the measurements.
        measures: By name (`egf_l1`, `egf_l2`, `l1`, `l2`), one number per step; or such mappings by network. For
            several runs, mean and standard error instead of a number: each point then has the bar of its 95 %
            interval.
        xlabel: Unit of `steps`.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If there is nothing to draw, or not one number for each step.
    """
    axes, lines = new_axes(ax), list(_lines(steps, measures))
    for line in lines:
        shown = np.where(np.isfinite(line.values), line.values, np.nan)
        mark = marker(line.style) if point_marker(len(steps)) else ""
        look: dict[str, Any] = {
            "color": colour(line.colour),
            "linestyle": style(line.style),
            "marker": mark,
            "markersize": 4,
        }
        axes.errorbar(steps, shown, yerr=line.intervals, capsize=2, label=line.name, **look)
    broken = [(x, line.colour) for line in lines for x in as_array(steps)[~np.isfinite(line.values)]]
    mark_edge(axes, "top", [x for x, _ in broken], [colour(index) for _, index in broken], "X", _BROKEN)
    _near_zero_linear(axes, np.concatenate([line.values for line in lines]))
    axes.set(xlabel=xlabel, ylabel="gradient flow", title="Gradient flow")
    whole_ticks(axes)
    legend_beside(axes, [*(line.name for line in lines), _BROKEN])
    return finish(axes, legend=False)


def _lines(
    steps: Sequence[float], measures: Mapping[str, Curve] | Mapping[str, Mapping[str, Curve]]
) -> Iterable[_Line]:
    check_not_empty(measures, "measure")
    if not _is_nested(measures):
        flat = cast(Mapping[str, Curve], measures)
        check_series(steps, flat, "measure")
        for index, (name, curve) in enumerate(flat.items()):
            yield _Line(as_text(name), *_split(curve), index, index)
        return
    # One colour per network, one line style per measure.
    kinds = list(dict.fromkeys(name for curves in measures.values() for name in curves))
    for index, (network, curves) in enumerate(measures.items()):
        check_series(steps, curves, f"measure of {network!r}")
        for name, curve in curves.items():
            yield _Line(as_text(f"{network}, {name}"), *_split(curve), index, kinds.index(name))


def _is_nested(measures: Mapping[str, Any]) -> TypeGuard[Mapping[str, Mapping[str, Curve]]]:
    return all(isinstance(curves, Mapping) for curves in measures.values())


def _split(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return values, and the half widths of their 95 % intervals if they have standard errors."""
    points = [point if isinstance(point, tuple) else (point, None) for point in curve]
    if all(error is None for _, error in points):
        return as_array([value for value, _ in points]), None
    return as_array([value for value, _ in points]), 1.96 * as_array([error or 0.0 for _, error in points])


def _near_zero_linear(axes: Axes, values: NDArray[np.float64]) -> None:
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    largest, smallest = (float(sizes.max()), float(sizes.min())) if sizes.size else (1.0, 1.0)
    threshold = 10.0 ** max(floor(log10(smallest)), floor(log10(largest)) - _DECADES)
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)
    if not (values < 0).any():
        axes.set_ylim(bottom=-0.2 * threshold)  # shows marks at zero completely


def plot_layer_gradient_flow(
    steps: Sequence[float],
    norms: Mapping[str, Sequence[float]],
    flags: Mapping[str, Sequence[str | None]] | None = None,
    xlabel: str = "epoch",
    ax: Axes | None = None,
) -> Figure:
    """Draw the norm of each layer's gradient over training, on a logarithmic axis, and mark its flags.

    A norm of zero is marked at the lower edge, one that is not finite at the upper edge.

    Args:
        steps: Epochs or steps of the measurements.
        norms: By layer, in the order of the model: the norm of the gradient of its active weights, >= 0, per step.
        flags: By layer, "vanishing", "exploding", "non-finite" or None per step; layers may be left out. The legend
            names the layers that have each.
        xlabel: Unit of `steps`.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If there is nothing to draw, not one norm or flag for each step, or an unknown layer or flag.
    """
    check_series(steps, norms)
    axes, names = new_axes(ax), short_names(norms)
    values = np.array([as_array(curve) for curve in norms.values()])
    for index, (name, curve) in enumerate(zip(names, values, strict=True)):
        shown = np.where(np.isfinite(curve) & (curve > 0), curve, np.nan)
        axes.plot(steps, shown, label=name, **layer_line(index, len(names), len(steps)))
    plain_log_scale(axes, values)
    axes.set(xlabel=xlabel, ylabel="norm of the gradient of active weights", title="Gradient flow per layer")
    whole_ticks(axes)
    kinds = _kinds(steps, norms, values, flags or {})
    labels = [_mark(axes, as_array(steps), values, kinds == kind, names, kind) for kind in _MARKS]
    name_layers(axes, names)
    name_marks(axes, labels)
    return finish(axes, legend=False)


def _kinds(
    steps: Sequence[float],
    norms: Mapping[str, Sequence[float]],
    values: NDArray[np.float64],
    flags: Mapping[str, Sequence[str | None]],
) -> NDArray[np.str_]:
    """Return the kind of mark of each layer and step: its flag, else "non-finite", "zero", or "" for no mark."""
    if unknown := [layer for layer in flags if layer not in norms]:
        raise InvalidValueError(
            expected="flags of layers that are drawn",
            got=first_names(unknown),
            cure="use the names of the norms",
        )
    kinds = np.where(np.isfinite(values), np.where(values == 0, "zero", ""), "non-finite")
    for index, layer in enumerate(norms):
        if layer in flags:
            check_series(steps, {layer: flags[layer]})
            own = np.array([_checked(flag) for flag in flags[layer]])
            kinds[index] = np.where(own != "", own, kinds[index])
    return kinds


def _checked(flag: str | None) -> str:
    if flag is not None and flag not in FLAGS:
        raise InvalidValueError(
            expected=f"flags among {', '.join(FLAGS)} and None",
            got=repr(flag),
            cure="use one of these",
        )
    return flag or ""


def _mark(
    axes: Axes,
    steps: NDArray[np.float64],
    values: NDArray[np.float64],
    marked: NDArray[np.bool_],
    names: Sequence[str],
    kind: str,
) -> str:
    """Mark layers at steps, on their lines or at the edge of the axes; return the label of the marks."""
    layer, at = np.nonzero(marked)
    label = f"{kind}: {first_names([names[index] for index in np.unique(layer)])}"
    xs, ys = steps[at], values[layer, at]
    colours = np.array([to_rgba(layer_colour(index, len(names))) for index in layer.tolist()]).reshape(-1, 4)
    on_scale = np.isfinite(ys) & (ys > 0)
    if on_scale.any():
        look = {"c": colours[on_scale], "marker": _MARKS[kind], **MARK}
        axes.scatter(xs[on_scale], ys[on_scale], label=label, **look)
    for edge, there in (("bottom", ys == 0), ("top", ~np.isfinite(ys))):
        mark_edge(axes, edge, xs[there].tolist(), list(colours[there]), _MARKS[kind], label)
    return label
