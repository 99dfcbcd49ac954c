"""Pictures of a training run. Each function draws into given axes, or new ones, and returns the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

# Okabe & Ito's palette, told apart with any colour vision; without its yellow, which is hardly seen on white. Line
# styles repeat the distinction for print.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

# A value and its standard error, None where there is none.
Point = tuple[float, float | None]


def plot_layer_densities(
    epochs: Sequence[int], densities: Mapping[str, Sequence[float]], ax: Axes | None = None
) -> Figure:
    """Draw the density of each layer over epochs, as steps.

    Args:
        epochs: Completed epochs at which the topology was as given, ascending.
        densities: By layer, one density in [0, 1] per entry of `epochs`.
        ax: Where to draw; default: a new figure.
    """
    axes = _axes(ax)
    for index, (layer, values) in enumerate(densities.items()):
        percent = [100 * value for value in values]
        axes.step(epochs, percent, where="post", label=layer, color=_colour(index), linestyle=_style(index))
    axes.set(
        xlabel="epochs completed", ylabel="active weights of the layer (%)", title="Density per layer", yscale="log"
    )
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    return _finish(axes)


def plot_accuracy(accuracies: Mapping[str, Sequence[float]], ax: Axes | None = None) -> Figure:
    """Draw validation accuracy over epochs, one line per network.

    Args:
        accuracies: By network, the accuracy in [0, 1] after each epoch.
        ax: Where to draw; default: a new figure.
    """
    axes = _axes(ax)
    for index, (network, values) in enumerate(accuracies.items()):
        epochs, percent = range(1, len(values) + 1), [100 * value for value in values]
        axes.plot(epochs, percent, label=network, color=_colour(index), linestyle=_style(index))
    axes.set(xlabel="epoch", ylabel="validation accuracy (%)", title="Accuracy")
    return _finish(axes)


def plot_beside_published(
    labels: Sequence[str], series: Mapping[str, Sequence[Point | None]], xlabel: str, ax: Axes | None = None
) -> Figure:
    """Draw one row per label with a point per series, each with the bar of its 95 % interval.

    Args:
        labels: Of the rows, from top to bottom.
        series: By name, one value and its standard error per label, or None.
        xlabel: What is measured, with its unit.
        ax: Where to draw; default: a new figure.
    """
    axes = _axes(ax)
    for index, (name, points) in enumerate(series.items()):
        # Side by side, so that equal values don't hide each other.
        rows = [row + 0.28 * (index - (len(series) - 1) / 2) for row in range(len(labels))]
        drawn = [(point, row) for point, row in zip(points, rows, strict=True) if point is not None]
        axes.errorbar(
            [value for (value, _), _ in drawn],
            [row for _, row in drawn],
            xerr=[1.96 * (error or 0) for (_, error), _ in drawn],
            fmt=_marker(index),
            color=_colour(index),
            label=name,
        )
    axes.set(xlabel=xlabel, yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5))
    axes.set_yticklabels(labels)
    return _finish(axes)


def plot_over_density(
    series: Mapping[str, Sequence[tuple[float, Point]]], ylabel: str, ax: Axes | None = None
) -> Figure:
    """Draw curves over the percentage of active weights, each point with the bar of its 95 % interval.

    Args:
        series: By name, percentage of active weights and value with its standard error. One point at 100 % is drawn as
            a horizontal line: the dense network. Without any, a name is not drawn but keeps its colour.
        ylabel: What is measured, with its unit.
        ax: Where to draw; default: a new figure.
    """
    axes = _axes(ax)
    for index, (name, points) in enumerate(series.items()):
        if not points:
            continue
        style = {"color": _colour(index), "linestyle": _style(index), "label": name}
        if len(points) == 1 and points[0][0] == 100:
            axes.axhline(points[0][1][0], **style)  # type: ignore[arg-type]  # a dict of several types
            continue
        ordered = sorted(points)
        axes.errorbar(
            [weights for weights, _ in ordered],
            [value for _, (value, _) in ordered],
            yerr=[1.96 * (error or 0) for _, (_, error) in ordered],
            marker=_marker(index),
            **style,  # type: ignore[arg-type]  # as above
        )
    axes.set(xlabel="active weights (%)", ylabel=ylabel)
    return _finish(axes)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _style(index: int) -> str:
    return _STYLES[index % len(_STYLES)]


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _axes(ax: Axes | None) -> Axes:
    # A Figure of its own needs no display and is not kept alive by pyplot.
    return Figure(figsize=(7, 4.2), layout="constrained").add_subplot() if ax is None else ax


def _finish(axes: Axes) -> Figure:
    axes.grid(alpha=0.3)
    axes.legend()
    figure = axes.get_figure()
    assert isinstance(figure, Figure)  # a SubFigure would have no file of its own to be saved to
    return figure
