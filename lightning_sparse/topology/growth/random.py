"""Random growth."""

from torch import Tensor

from lightning_sparse.topology.layer import LayerView, uses


@uses(shardable=True)
def random(layer: LayerView) -> Tensor:
    """Score uniform noise: every inactive weight is as likely (Mocanu et al. 2018; Mostafa & Wang 2019)."""
    return layer.noise()
