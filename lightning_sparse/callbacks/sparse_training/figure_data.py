"""What pictures of a run are drawn from: its records as curves, its batches as shapes of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Literal

from torch import Tensor

from lightning_sparse.methods.history import UpdateRecord
from lightning_sparse.network.budget import LayerDensity

# Which counter of a record is its position.
Unit = Literal["epoch", "step"]


def density_curves(
    history: Sequence[UpdateRecord], layers: Mapping[str, LayerDensity], unit: Unit, span: tuple[int, int]
) -> tuple[list[int], dict[str, list[float]]]:
    """Return positions, and the density of each masked layer in [0, 1] from each of them on.

    Args:
        history: The updates.
        layers: Present sizes and active counts of the layers.
        unit: Unit of the positions.
        span: The positions at which the run began, and where it is.
    """
    positions = [span[0], *(getattr(record, unit) for record in history)]
    ends = [span[1]] if span[1] > positions[-1] else []  # so that the last density is seen as long as it has lasted
    curves = {name: _densities(history, name, layer) for name, layer in layers.items() if not layer.dense}
    return positions + ends, {name: [*curve, *curve[-1:] * len(ends)] for name, curve in curves.items()}


def _densities(history: Sequence[UpdateRecord], name: str, layer: LayerDensity) -> list[float]:
    """Return the density at first and after each update; a layer that an update left out, as it is frozen, stays."""
    changes = [record.layers.get(name) for record in history]
    first = next((change.before for change in changes if change is not None), layer.active)
    active = [first]
    for change in changes:
        active.append(active[-1] if change is None else change.active)
    return [count / layer.size for count in active]


def share_curves(
    history: Sequence[UpdateRecord], layers: Mapping[str, LayerDensity], unit: Unit
) -> tuple[list[int], dict[str, list[float]]]:
    """Return the positions of updates, and each masked layer's redistribution share in [0, 1]; NaN where it had none.

    Args:
        history: The updates.
        layers: Present sizes and active counts of the layers.
        unit: Unit of the positions.
    """
    shares = {
        name: [record.layers[name].share if name in record.layers else nan for record in history]
        for name, layer in layers.items()
        if not layer.dense
    }
    return [getattr(record, unit) for record in history], shares


def image_shapes(batch: object) -> list[tuple[int, ...]]:
    """Return the shapes of square images, `(height, width)` or `(channels, height, width)`, that a batch may hold.

    Args:
        batch: A tensor with a row per image, or any nesting of lists, tuples and mappings with such tensors.
    """
    if isinstance(batch, Tensor):
        shape = tuple(batch.shape[1:])
        return [shape] if len(shape) in (2, 3) and shape[-1] == shape[-2] > 1 else []
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return [shape for part in parts for shape in image_shapes(part)]
