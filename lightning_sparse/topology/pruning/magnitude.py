"""Magnitude pruning."""

from torch import Tensor

from lightning_sparse.topology.layer import LayerView, uses


@uses(shardable=True)
def magnitude(layer: LayerView) -> Tensor:
    """Score `|weight|` (Han et al. 2015; Dettmers & Zettlemoyer 2019, section 3.2 b)."""
    return layer.weight.abs()
