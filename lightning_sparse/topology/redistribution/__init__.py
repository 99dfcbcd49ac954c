"""Redistribution rules: how large a share of the regrown weights each layer gets."""

from lightning_sparse.topology.layer import LayerClaim
from lightning_sparse.topology.redistribution.mean_momentum import mean_momentum
from lightning_sparse.topology.redistribution.momentum_per_multiplication import momentum_per_multiplication
from lightning_sparse.topology.redistribution.momentum_per_root_multiplication import momentum_per_root_multiplication

# "none": each layer regrows what it lost.
REDISTRIBUTION: dict[str, LayerClaim | None] = {
    "momentum": mean_momentum,
    "momentum_per_multiplication": momentum_per_multiplication,
    "momentum_per_root_multiplication": momentum_per_root_multiplication,
    "none": None,
}

__all__ = ["REDISTRIBUTION", "mean_momentum", "momentum_per_multiplication", "momentum_per_root_multiplication"]
