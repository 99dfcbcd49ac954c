"""The redistribution of sparse momentum."""

from torch import Tensor

from lightning_sparse.topology.layer import LayerView, uses
from lightning_sparse.topology.reduction import mean_magnitude


@uses("momentum")
def mean_momentum(layer: LayerView) -> Tensor:
    """Claim the mean momentum magnitude of the active weights (Dettmers & Zettlemoyer 2019, section 3.2 a).

    A layer without active weights claims nothing.
    """
    return mean_magnitude(layer.require("momentum"), layer.mask)
