"""Example of every picture, for networks of any depth, and the content of a figure read from its artists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from numpy.typing import NDArray

from lightning_sparse.analysis.pictures import (
    plot_accuracy,
    plot_empty_channels,
    plot_gradient_flow,
    plot_input_connectivity,
    plot_layer_densities,
    plot_layer_gradient_flow,
    plot_mask,
    plot_redistribution,
    plot_specialization,
)

EPOCHS = list(range(20))


def layers(count: int) -> list[str]:
    """Return names of layers like those of a residual network."""
    return [f"model.stage{1 + index // 17}.block{index % 17}.conv{index % 3 + 1}.weight" for index in range(count)]


def walks(count: int, steps: int = 20, scale: float = 0.05) -> NDArray[np.float64]:
    """Return one positive curve per layer."""
    source = np.random.default_rng(count)
    return np.asarray(scale * np.exp(np.cumsum(source.normal(0, 0.1, (count, steps)), axis=1)))


def shares(count: int) -> dict[str, list[float]]:
    """Return shares that sum to 1 in every update."""
    claims = walks(count)
    return dict(zip(layers(count), (claims / claims.sum(axis=0)).tolist(), strict=True))


def curves(count: int, scale: float = 0.05) -> dict[str, list[float]]:
    """Return one curve per layer."""
    return dict(zip(layers(count), walks(count, scale=scale).tolist(), strict=True))


def masks(count: int) -> dict[str, NDArray[np.bool_]]:
    """Return one mask of a convolution per layer, some of whose channels are empty."""
    source = np.random.default_rng(count)
    return {name: source.random((12, 8, 3, 3)) < 0.02 for name in layers(count)}


def channels(count: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return the class specialization of 40 channels per layer, of ten classes."""
    source = np.random.default_rng(seed)
    return {name: np.clip(0.1 + source.gamma(2, 0.05, 40), 0.1, 1) for name in layers(count)}


def flagged(count: int, ax: Axes | None = None) -> Figure:
    """Draw gradients of which some vanish, explode and are not finite."""
    norms = curves(count, scale=1e-3)
    first, last = layers(count)[0], layers(count)[-1]
    norms[first][3] = np.nan
    flags = {last: [None, "vanishing", *[None] * 18], first: [*[None] * 19, "exploding"]}
    return plot_layer_gradient_flow(EPOCHS, norms, flags, ax=ax)


# Pictures of a network with `count` layers.
BY_LAYER: dict[str, Callable[..., Figure]] = {
    "densities": lambda count, ax=None: plot_layer_densities(EPOCHS, curves(count), ax),
    "redistribution": lambda count, ax=None: plot_redistribution(EPOCHS, shares(count), ax),
    "layer gradient flow": flagged,
    "specialization": lambda count, ax=None: plot_specialization(channels(count, 1), channels(count, 2), 10, ax),
    "empty channels": lambda count, ax=None: plot_empty_channels(masks(count), ax),
}
# All other pictures.
OTHERS: dict[str, Callable[..., Figure]] = {
    "accuracy": lambda ax=None: plot_accuracy({"dense": [0.5, 0.75]}, ax),
    "gradient flow": lambda ax=None: plot_gradient_flow([0, 50, 99], {"egf_l1": [2, 1, 0.5]}, ax=ax),
    "mask": lambda ax=None: plot_mask(np.eye(20, 30) > 0, ax),
    "mask of a convolution": lambda ax=None: plot_mask(masks(1)[layers(1)[0]], ax),
    "thin mask": lambda ax=None: plot_mask(np.eye(10, 512) > 0, ax),
    "large mask": lambda ax=None: plot_mask(np.eye(1100, 900) > 0, ax),
    "input connectivity": lambda ax=None: plot_input_connectivity(np.ones((5, 64)) > 0, (8, 8), ax),
}


def only(axes: list[Axes]) -> Axes:
    """Return the axes of a picture that has no colour bar."""
    (single,) = axes
    return single


def line(axes: Axes, label: str) -> Any:
    """Return the line with a label."""
    (labelled,) = [drawn for drawn in axes.lines if drawn.get_label() == label]
    return labelled


def ys(axes: Axes, label: str) -> NDArray[np.float64]:
    """Return the vertical positions of a line's points."""
    return np.asarray(line(axes, label).get_ydata(), dtype=float)


def containers(axes: Axes) -> list[Any]:
    """Return the bars, or lines with error bars, of axes."""
    return list(axes.containers)


def legend_texts(axes: Axes) -> list[str]:
    """Return the texts of all legends of axes, the one beside the axes first."""
    legends = [legend for legend in axes.get_children() if isinstance(legend, Legend)]
    legends.sort(key=lambda legend: legend is not axes.get_legend())
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def marks(axes: Axes, label: str) -> list[tuple[float, float, str]]:
    """Return position and colour of the marks that have a label, or one that starts with it."""
    positions = []
    for each in axes.collections:
        if str(each.get_label()).startswith(label):
            colours: Any = each.get_facecolor()
            for (x, y), colour in zip(np.asarray(each.get_offsets()), colours, strict=True):
                positions.append((float(x), float(y), to_hex(tuple(colour))))
    return positions


def illegible(figure: Figure) -> list[str]:
    """Return the texts of a picture that reach beyond its edge, and tick labels of an axis that overlap."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, edge = canvas.get_renderer(), figure.bbox.padded(1)
    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    on_ticks = {label for axis in axes for label in _labels([*axis.get_major_ticks(), *axis.get_minor_ticks()])}
    others = [text for text in figure.findobj(Text) if isinstance(text, Text) and text not in on_ticks]
    problems = []
    for text in [*others, *(label for axis in axes for label in _shown(axis))]:
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent(renderer)
            if box.x0 < edge.x0 or box.y0 < edge.y0 or box.x1 > edge.x1 or box.y1 > edge.y1:
                problems.append(f"{text.get_text()!r} is cut off")
    for axis in axes:
        for first, second in combinations(_shown(axis), 2):
            if first.get_window_extent(renderer).padded(-1).overlaps(second.get_window_extent(renderer).padded(-1)):
                problems.append(f"{first.get_text()!r} overlaps {second.get_text()!r}")
    return problems


def _labels(ticks: Iterable[Tick]) -> list[Text]:
    return [label for tick in ticks for label in (tick.label1, tick.label2)]


def _shown(axis: Axis) -> list[Text]:
    """Return the labels that are drawn: those of ticks beyond the end of an axis aren't."""
    low, high = sorted(axis.get_view_interval())
    shown = _labels(tick for tick in axis.get_major_ticks() if axis.get_visible() and low <= tick.get_loc() <= high)
    return [label for label in shown if label.get_visible() and label.get_text()]
