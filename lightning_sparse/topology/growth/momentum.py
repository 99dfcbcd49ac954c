"""The growth of sparse momentum."""

from torch import Tensor

from lightning_sparse.topology.layer import LayerView, uses


@uses("momentum", shardable=True)
def momentum(layer: LayerView) -> Tensor:
    """Score `|momentum|` (Dettmers & Zettlemoyer 2019, section 3.2 c)."""
    return layer.require("momentum").abs()
