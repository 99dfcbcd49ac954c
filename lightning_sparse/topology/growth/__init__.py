"""Growth rules: which inactive weights to activate."""

from lightning_sparse.topology.growth.gradient import gradient
from lightning_sparse.topology.growth.momentum import momentum
from lightning_sparse.topology.growth.random import random
from lightning_sparse.topology.layer import WeightScore

GROWTH: dict[str, WeightScore] = {"momentum": momentum, "random": random, "gradient": gradient}

__all__ = ["GROWTH", "gradient", "momentum", "random"]
