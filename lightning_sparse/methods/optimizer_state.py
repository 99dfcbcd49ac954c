"""What optimizers keep of single weights: learning rates, and momentum that a new weight must not inherit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.dtensor import to_local


def learning_rate(network: SparseNetwork, name: str) -> float:
    """Return the learning rate of a masked weight in the optimizer that stepped it last; 0 if nothing steps it."""
    parameter = network.maskable[name]
    for optimizer in network.optimizers_of(name):
        for group in optimizer.param_groups:
            if any(own is parameter for own in group["params"]):
                return float(group["lr"])
    return 0.0


@torch.no_grad()
def clear_state(network: SparseNetwork, name: str, where: Tensor) -> None:
    """Set what optimizers keep of some positions of a weight (momentum, second moments) to zero.

    Args:
        network: The network, attached to its optimizers.
        name: Name of the weight.
        where: Positions, bool, of the weight's shape (of a sharded one, of the local part's).
    """
    parameter: nn.Parameter = network.maskable[name]
    for optimizer in network.optimizers_of(name):
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point():
                to_local(value).masked_fill_(where, 0)
