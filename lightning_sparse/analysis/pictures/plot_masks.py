"""Masks, connections per input pixel, and empty channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lightning_sparse.analysis.pictures.inputs import as_mask, check_not_empty, short_names
from lightning_sparse.analysis.pictures.style import (
    COLOURS,
    HATCHES,
    figure_of,
    finish,
    legend_above,
    name_ticks,
    new_axes,
    whole_numbers,
)
from lightning_sparse.validation.errors import InvalidValueError

# Most cells per side that are visible in a picture of the usual size.
_CELLS = 512


def plot_mask(mask: Tensor | ArrayLike, ax: Axes | None = None) -> Figure:
    """Draw the mask of a layer: outputs from top to bottom, inputs from left to right, dark where weights are active.

    A kernel of a convolution is one cell, darker with more active weights. The inner patterns are left out: they would
    take nine times the cells, and the layer's work and its channels depend on which kernels are empty (white). In
    layers with more than 512 outputs or inputs, a block of several is one cell, as dark as the block is dense.

    Args:
        mask: Bool (or 0 and 1), shape `(out, in, *kernel)`.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If it is no mask.
    """
    array = as_mask(mask)
    counts = array.reshape(*array.shape[:2], -1).sum(axis=2)
    blocks = [ceil(size / _CELLS) for size in counts.shape]
    kernel = prod(array.shape[2:])
    axes, aspect = _axes_for(ax, *counts.shape)
    image = counts if max(blocks) == 1 else _block_percent(counts, blocks, kernel)
    extent = (0, counts.shape[1], counts.shape[0], 0)
    drawn = axes.imshow(image, vmin=0, vmax=max(1, image.max()), aspect=aspect, extent=extent, **_SHADES)
    if label := _unit(array.shape[2:], blocks):
        _add_bar(axes, drawn, label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(whole_numbers())
    percent = 100 * counts.sum() / array.size
    axes.set(
        xlabel="input", ylabel="output", title=f"{counts.sum():,} of {array.size:,} weights active ({percent:.3g} %)"
    )
    return figure_of(axes)


def _axes_for(ax: Axes | None, height: int, width: int) -> tuple[Axes, Literal["equal", "auto"]]:
    """Return axes that a mask fills, and their aspect: cells are squares, except in thin layers."""
    ratio = height / width
    aspect: Literal["equal", "auto"] = "equal" if 1 / 5 <= ratio <= 5 else "auto"
    drawn = min(max(ratio, 1 / 3), 2)  # height by width, without ticks and bar
    side = 5.0 if drawn <= 1 else 5.6 / drawn
    return new_axes(ax, width=max(4.6, side + 1.4), height=side * drawn + 1), aspect


def _add_bar(axes: Axes, drawn: AxesImage, label: str) -> None:
    """Add a bar with the meaning of the shades."""
    bar = figure_of(axes).colorbar(drawn, ax=axes, label=label, fraction=0.05, pad=0.02)
    bar.locator = whole_numbers()


def _unit(kernel: Sequence[int], blocks: Sequence[int]) -> str:
    """Return the unit of the shades; "" if a cell is one weight."""
    of_kernel = " x ".join(map(str, kernel))
    if max(blocks) == 1:
        return f"active weights of a {of_kernel} kernel" if prod(kernel) > 1 else ""
    return f"active weights in blocks of {blocks[0]} x {blocks[1]} (%)"


def _block_percent(counts: NDArray[Any], blocks: Sequence[int], kernel: int) -> NDArray[np.float64]:
    """Return the percentage of active weights in blocks; the last ones may be smaller."""
    sums, sizes = counts, []
    for axis, (size, block) in enumerate(zip(counts.shape, blocks, strict=True)):
        starts = np.arange(0, size, block)
        sums = np.add.reduceat(sums, starts, axis=axis)
        sizes.append(np.diff(starts, append=size))
    percent: NDArray[np.float64] = 100 * sums / (np.outer(*sizes) * kernel)
    return percent


def _dark_on_white() -> Colormap:
    """Return white for zero, and shades from a light blue that differs from white to a dark one."""
    shades = colormaps["Blues"](np.linspace(0.25, 1, 256))
    shades[0] = (1, 1, 1, 1)
    return ListedColormap(shades)


_SHADES: dict[str, Any] = {"cmap": _dark_on_white(), "interpolation": "nearest"}


def plot_input_connectivity(mask: Tensor | ArrayLike, image_shape: Sequence[int], ax: Axes | None = None) -> Figure:
    """Draw how many active connections each pixel of the input has, in all channels together.

    Args:
        mask: Mask of a fully connected layer whose inputs are the pixels of an image, shape `(out, in)`.
        image_shape: `(height, width)` or `(channels, height, width)`, with one pixel per input of the layer.
        ax: Axes to draw into; default: a new figure.

    Raises:
        ValueError: If it is no mask, or has another number of inputs.
    """
    array = as_mask(mask)
    if array.ndim != 2 or len(image_shape) not in (2, 3) or prod(image_shape) != array.shape[1]:
        raise InvalidValueError(
            expected="a mask of shape (out, pixels) and the shape of an image with as many pixels",
            got=f"{array.shape} and {tuple(image_shape)}",
            cure="(channels, height, width) of the layer's input",
        )
    counts = array.sum(axis=0).reshape(-1, *image_shape[-2:]).sum(axis=0)
    axes = new_axes(ax, width=5.4, height=4.4)
    drawn = axes.imshow(counts, vmin=0, vmax=max(1, counts.max()), **_SHADES)
    channels = image_shape[0] if len(image_shape) == 3 else 1
    label = "active connections of the pixel" + (f", {channels} channels together" if channels > 1 else "")
    _add_bar(axes, drawn, label)
    axes.set(xlabel="column (pixel)", ylabel="row (pixel)", title=f"{counts.sum():,} active connections")
    return figure_of(axes)


def plot_empty_channels(masks: Mapping[str, Tensor | ArrayLike], ax: Axes | None = None) -> Figure:
    """Draw the percentage of each layer's input and output channels that have no active weight.

    Args:
        masks: Masks by layer, in the order of the model: bool (or 0 and 1), shape `(out, in, *kernel)`.
        ax: Axes to draw into; default: a new figure, high enough for all layers.

    Raises:
        ValueError: If there is none, or one is no mask.
    """
    check_not_empty(masks, "layer")
    arrays = [as_mask(mask) for mask in masks.values()]
    axes = new_axes(ax, height=min(30, max(3, 1.4 + 0.24 * len(arrays))))
    rows = np.arange(len(arrays))
    largest = 0.0
    for index, (name, axis) in enumerate((("input channels", 1), ("output channels", 0))):
        percent = [100 * _empty(array, axis) for array in arrays]
        look: dict[str, Any] = {
            "color": COLOURS[index],
            "hatch": HATCHES[2 * index],
            "edgecolor": "white",
            "linewidth": 0,
        }
        axes.barh(rows + 0.4 * index - 0.2, percent, height=0.4, label=name, **look)
        largest = max(largest, *percent)
    if not largest:
        axes.text(0.5, 0.5, "no channel is empty", transform=axes.transAxes, ha="center")
    axes.set(xlabel="channels without an active weight (%)", xlim=(0, min(100, max(1, 1.05 * largest))))
    axes.set_ylim(len(arrays) - 0.5, -0.5)  # the first layer on top
    name_ticks(axes.yaxis, short_names(masks))
    legend_above(axes, ["input channels", "output channels"], "Empty channels")
    return finish(axes, legend=False)


def _empty(mask: NDArray[np.bool_], axis: int) -> float:
    others = tuple(other for other in range(mask.ndim) if other != axis)
    return float(1 - mask.any(axis=others).mean())
