"""What optimizers keep of single weights: learning rates, and momentum that a new weight must not inherit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

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


def add_parameters(optimizer: Optimizer, group: dict[str, Any], parameters: Iterable[nn.Parameter]) -> None:
    """Let an optimizer step further parameters, as those of one of its groups.

    Most optimizers make their state of a parameter in its first step. Those that make it when they are built (Adagrad
    of PyTorch 2.4) have it for all others already: they get what one that is built now has.

    Args:
        optimizer: The optimizer.
        group: One of its parameter groups. Not a new one: schedulers that exist already know the number of groups.
        parameters: Parameters that the optimizer doesn't have.
    """
    is_complete = all(optimizer.state.get(each) for own in optimizer.param_groups for each in own["params"])
    for parameter in parameters:
        group["params"].append(parameter)
        if is_complete and (state := _first_state(optimizer, parameter)):
            optimizer.state[parameter] = state


def _first_state(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    try:
        built = type(optimizer)([parameter], **optimizer.defaults)
    except TypeError:  # it takes other arguments than the options of its groups: it is on its own
        return {}
    return dict(built.state.get(parameter, {}))
