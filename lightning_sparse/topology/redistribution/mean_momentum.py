"""The redistribution of sparse momentum."""

import torch
from torch import Tensor

from lightning_sparse.topology.layer import LayerView, uses
from lightning_sparse.topology.select import widest_float


@uses("momentum")
def mean_momentum(layer: LayerView) -> Tensor:
    """Claim the mean momentum magnitude of the active weights (Dettmers & Zettlemoyer 2019, section 3.2 a).

    A layer without active weights claims nothing.
    """
    wide = widest_float(layer.weight.device)
    magnitudes = layer.require("momentum").abs() * layer.mask
    return magnitudes.sum(dtype=wide) / torch.count_nonzero(layer.mask).clamp_min(1)
