"""How many multiplications a weight of each layer costs, learned from forward passes of the model in training."""

from lightning_sparse.network.multiplications.learned import Multiplications

__all__ = ["Multiplications"]
