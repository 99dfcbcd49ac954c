"""The growth of RigL."""

from torch import Tensor

from lightning_sparse.topology.layer import LayerView, uses


@uses("gradient", shardable=True)
def gradient(layer: LayerView) -> Tensor:
    """Score `|gradient|` of the last step, dense (Evci et al. 2020, section 3)."""
    return layer.require("gradient").abs()
