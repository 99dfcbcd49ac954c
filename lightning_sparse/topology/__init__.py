"""What changes in a topology update: pure functions, tensors in, tensors out."""

from lightning_sparse.topology.layer import (
    LayerClaim,
    LayerCount,
    LayerView,
    MissingSignalError,
    NonFiniteError,
    WeightScore,
    uses,
)
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.recipes import RECIPES
from lightning_sparse.topology.rewire import Rewiring, rewire
from lightning_sparse.topology.select import apportion, top_k_mask
from lightning_sparse.topology.sharding import Shard, ShardingError

__all__ = [
    "RECIPES",
    "LayerChange",
    "LayerClaim",
    "LayerCount",
    "LayerView",
    "MissingSignalError",
    "NonFiniteError",
    "Recipe",
    "Rewiring",
    "Shard",
    "ShardingError",
    "WeightScore",
    "apportion",
    "rewire",
    "top_k_mask",
    "uses",
]
