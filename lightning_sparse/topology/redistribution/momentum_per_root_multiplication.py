"""The redistribution of sparse momentum, half-way to multiplications."""

from torch import Tensor

from lightning_sparse.topology.layer import MULTIPLICATIONS, LayerView, uses
from lightning_sparse.topology.redistribution.mean_momentum import mean_momentum


@uses("momentum", MULTIPLICATIONS, shardable=True)
def momentum_per_root_multiplication(layer: LayerView) -> Tensor:
    """Claim the mean momentum magnitude, divided by the square root of what one weight costs per example.

    It is the geometric mean of two claims: that of sparse momentum (Dettmers & Zettlemoyer 2019, section 3.2 a), and
    `momentum_per_multiplication`.
    """
    return mean_momentum(layer) / layer.require(MULTIPLICATIONS).sqrt()
