"""The redistribution of sparse momentum."""

from torch import Tensor

from lightning_sparse.topology.layer import LayerView, uses
from lightning_sparse.topology.reduction import mean_magnitude


@uses("momentum", shardable=True)
def mean_momentum(layer: LayerView) -> Tensor:
    """Claim the mean momentum magnitude of the active weights (Dettmers & Zettlemoyer 2019, section 3.2 a).

    A layer without active weights claims nothing. The claim is the same however the weight is split over processes.
    """
    return mean_magnitude(layer.require("momentum"), layer.mask, layer.shard)
