"""Redistribution rules: how large a share of the regrown weights each layer gets."""

from lightning_sparse.topology.layer import LayerClaim
from lightning_sparse.topology.redistribution.mean_momentum import mean_momentum

# "none": each layer regrows what it lost.
REDISTRIBUTION: dict[str, LayerClaim | None] = {"momentum": mean_momentum, "none": None}

__all__ = ["REDISTRIBUTION", "mean_momentum"]
