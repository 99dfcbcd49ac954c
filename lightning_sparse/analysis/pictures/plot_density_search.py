"""A search over densities: what it tried, and the front of what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_sparse.analysis.pictures.inputs import check_not_empty
from lightning_sparse.analysis.pictures.style import colour, finish, marker, new_axes

# Number of active weights, and a value.
Point = tuple[int, float]


def plot_front(
    groups: Mapping[str, Sequence[Point]],
    front: Sequence[Point],
    ylabel: str,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw networks by their number of active weights and what they reach, and a line through the best of each size.

    Args:
        groups: By name, the networks of a group.
        front: Networks that no other one beats in both, in any order; empty: no line.
        ylabel: Measured quantity, with its unit.
        title: Title of the picture.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If there is nothing to draw.
    """
    check_not_empty(groups, "groups")
    axes = new_axes(ax)
    for index, (name, points) in enumerate(groups.items()):
        look: dict[str, Any] = {"color": colour(index), "marker": marker(index), "alpha": 0.7}
        axes.scatter([active for active, _ in points], [value for _, value in points], label=name, **look)
    if ordered := sorted(front):
        axes.step(
            [active for active, _ in ordered],
            [value for _, value in ordered],
            where="post",
            label="front",
            color="black",
        )
    axes.set(xscale="log", xlabel="active weights", ylabel=ylabel, title=title)
    return finish(axes)


def plot_layer_shares(densities: Mapping[str, Mapping[str, float]], title: str = "", ax: Axes | None = None) -> Figure:
    """Draw the density of each layer, a line for each network.

    Args:
        densities: By name of the network, the density of each layer, in the order of the layers.
        title: Title of the picture.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If there is nothing to draw.
    """
    check_not_empty(densities, "densities")
    axes = new_axes(ax)
    for index, (name, layers) in enumerate(densities.items()):
        axes.plot(range(len(layers)), list(layers.values()), color=colour(index), marker=marker(index), label=name)
    names = list(next(iter(densities.values())))
    axes.set_xticks(range(len(names)), [name.removesuffix(".weight") for name in names], rotation=45, ha="right")
    axes.set(ylabel="density", ylim=(0, 1.05), title=title)
    return finish(axes)
