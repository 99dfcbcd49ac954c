"""Random growth."""

import torch
from torch import Tensor

from lightning_sparse.topology.layer import LayerView, uses


@uses()
def random(layer: LayerView) -> Tensor:
    """Score uniform noise: every inactive weight is as likely (Mocanu et al. 2018; Mostafa & Wang 2019).

    The noise is drawn on the CPU, so that the masks are the same on every device.
    """
    return torch.rand(layer.weight.shape, generator=layer.generator).to(layer.weight.device, non_blocking=True)
