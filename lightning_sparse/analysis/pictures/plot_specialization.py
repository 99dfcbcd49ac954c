"""Class specialization of the channels of dense and sparse networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_sparse.analysis.pictures.inputs import as_array, check_not_empty, first_names, short_names
from lightning_sparse.analysis.pictures.style import COLOURS, finish, legend_above, name_ticks, new_axes
from lightning_sparse.validation.errors import InvalidValueError

_Channels = dict[str, NDArray[np.float64]]
_BINS = 40
# Length of a layer's longest bar, as a part of the distance to the next layer.
_REACH = 0.46


def plot_specialization(
    dense: Mapping[str, Tensor | ArrayLike],
    sparse: Mapping[str, Tensor | ArrayLike] | None = None,
    num_classes: int | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw how specialized the channels of each layer are, dense to the left and sparse to the right.

    As Figure 3 of Dettmers & Zettlemoyer (2019, section 5.2) shows it: one histogram of each network per layer, back
    to back on a vertical line, in bins that all layers share. Lengths are fractions of a network's channels; the
    longest bar of each layer has the same length, since a layer where all channels are alike would dwarf the others.

    Args:
        dense: By layer, in the order of the model: each channel's specialization, the largest part of its activation
            that is due to one class, in [1 / classes, 1]. NaN, for a channel that is never active, is left out.
        sparse: The same layers of the sparse network. None: the first network is drawn alone, to the right.
        num_classes: Number of classes, to mark 1 / classes: channels that are equally active for all of them.
        ax: Axes to draw into; default: a new figure, wide enough for all layers.

    Raises:
        ValueError: If there is nothing to draw, the layers differ or a value is out of range.
    """
    named = {"channels": dense} if sparse is None else {"dense": dense, "sparse": sparse}
    networks = _checked(named, num_classes)
    axes = new_axes(ax, width=min(24, max(7, 1 + 0.32 * len(dense))), height=4.2 if len(dense) <= 16 else 5.4)
    edges = _bins([values for channels in networks.values() for values in channels.values()], num_classes)
    for at, layer in enumerate(dense):
        _draw_layer(axes, at, {name: channels[layer] for name, channels in networks.items()}, edges)
    for at in range(len(dense)):
        axes.axvline(at, color="black", linewidth=0.6)
    labels = [*named, "mean"]
    if num_classes is not None:
        labels.append(f"uniform, 1/{num_classes}")
        axes.axhline(1 / num_classes, color="black", linestyle="--", linewidth=1, label=labels[-1])
    axes.set(ylabel="class specialization of the channels", xlim=(-0.6, len(dense) - 0.4))
    name_ticks(axes.xaxis, short_names(dense), upright=len(dense) > 5)
    legend_above(axes, labels, "Class specialization")
    return finish(axes, legend=False)


def _draw_layer(axes: Axes, at: int, networks: _Channels, edges: NDArray[Any]) -> None:
    """Draw the histograms of a layer: the last network to the right, the one before it to the left."""
    parts = [np.histogram(values, edges)[0] / max(1, len(values)) for values in networks.values()]
    longest = max(part.max() for part in parts) or 1
    sides = (-1, 1)[-len(networks) :]
    for (name, values), side, part, fill in zip(networks.items(), sides, parts, COLOURS, strict=False):
        ends = at + side * _REACH * part / longest
        axes.stairs(ends, edges, baseline=at, orientation="horizontal", fill=True, color=fill, label=name)
        if len(values):
            first, last = sorted((at, at + side * _REACH))
            axes.hlines(values.mean(), first, last, color="black", linewidth=1.6, label="mean")


def _bins(values: list[NDArray[np.float64]], num_classes: int | None) -> NDArray[Any]:
    together = np.concatenate(values)
    lowest = together.min() if num_classes is None else 1 / num_classes
    return np.linspace(lowest, max(together.max(), lowest + 0.01), _BINS + 1)


def _checked(networks: Mapping[str, Mapping[str, Tensor | ArrayLike]], num_classes: int | None) -> dict[str, _Channels]:
    """Return the values of one network or two, by layer in the order of the first one, without NaN."""
    first, *others = networks.values()
    last = others[0] if others else first
    check_not_empty(first, "layer")
    if different := sorted(set(first) ^ set(last)):
        raise InvalidValueError(
            expected="the same layers of both networks",
            got=f"{first_names(different)} in one of them only",
            cure="measure both in the same way, or leave layers out",
        )
    if num_classes is not None and num_classes < 1:
        raise InvalidValueError(
            expected="a number of classes",
            got=num_classes,
            cure="10 for CIFAR-10",
        )
    known = {
        name: {layer: _in_range(layer, channels[layer], num_classes) for layer in first}
        for name, channels in networks.items()
    }
    if not any(len(values) for channels in known.values() for values in channels.values()):
        raise InvalidValueError(
            expected="a channel that is active",
            got="none",
            cure="draw after a pass through the data",
        )
    return known


def _in_range(layer: str, values: Tensor | ArrayLike, num_classes: int | None) -> NDArray[np.float64]:
    array = as_array(values).ravel()
    array = array[~np.isnan(array)]
    lowest = 0 if num_classes is None else 1 / num_classes
    # The proportions are rounded, so that the largest may be just below 1 / classes.
    if (outside := array[(array < lowest - 1e-6) | (array > 1 + 1e-6)]).size:
        raise InvalidValueError(
            expected=f"specialization in [{lowest:g}, 1] in {layer!r}",
            got=f"{outside[0]:g}",
            cure="give each channel's largest part of its activation that is due to one class",
        )
    return np.clip(array, lowest, 1)
