"""A sparse network as a small table of text."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_sparse.network.budget import LayerDensity

# Layers that are listed; of a larger network the first and the last ones.
_MOST = 12


def network_table(kind: str, layers: Mapping[str, LayerDensity], overall_density: float) -> str:
    """Return a table of the layers of a network: name, shape, active weights and density, below a line on all of them.

    Args:
        kind: Class name of the masked model.
        layers: Sizes and active counts by parameter name.
        overall_density: Active fraction of all trainable weights, in [0, 1].

    >>> print(network_table("Linear", {"weight": LayerDensity((10, 40), 400, 20, dense=False)}, 0.05))
    SparseNetwork of Linear: 20 of 400 weights active, density 0.05, overall density 0.05
      weight  10 x 40  20 of 400  0.05
    """
    active, size = (sum(getattr(layer, field) for layer in layers.values()) for field in ("active", "size"))
    title = (
        f"SparseNetwork of {kind}: {active:,} of {size:,} weights active, density {active / max(1, size):.3g}, "
        f"overall density {overall_density:.3g}"
    )
    rows = [
        (name, " x ".join(map(str, layer.shape)), f"{layer.active:,} of {layer.size:,}", f"{layer.density:.3g}")
        for name, layer in layers.items()
    ]
    if left_out := len(rows) - _MOST if len(rows) > _MOST + 1 else 0:
        rows = [*rows[: _MOST // 2], (f"... {left_out} more", "", "", ""), *rows[-(_MOST // 2) :]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([title, *(f"  {line}".rstrip() for line in lines)])
