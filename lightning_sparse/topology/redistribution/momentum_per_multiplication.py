"""The redistribution of sparse momentum, per multiplication."""

from torch import Tensor

from lightning_sparse.topology.layer import MULTIPLICATIONS, LayerView, uses
from lightning_sparse.topology.redistribution.mean_momentum import mean_momentum


@uses("momentum", MULTIPLICATIONS, shardable=True)
def momentum_per_multiplication(layer: LayerView) -> Tensor:
    """Claim the mean momentum magnitude of the active weights, divided by what one weight costs per example.

    The cost is a number of multiplications: of a convolution one for each position of its output map, so that sparse
    momentum (Dettmers & Zettlemoyer 2019, section 3.2 a), which counts weights, makes early convolutions dense and
    the network slow. Here layers are compared by what momentum is worth per multiplication instead. It isn't from
    that paper.
    """
    return mean_momentum(layer) / layer.require(MULTIPLICATIONS)
