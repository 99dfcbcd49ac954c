"""The network of slow versions that train in double precision, and the gradients of its weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from loops import batch, small_network
from torch import nn
from torch.nn.functional import cross_entropy

WEIGHTS = ("0.weight", "2.weight")
# Weights, or their gradients, by name, in the order of the flattened tensor.
Values = dict[str, list[float]]


def network(seed: int) -> nn.Sequential:
    """Return the network of the loops in double precision, with frozen biases."""
    net = small_network(seed).double()
    for bias in (net[0].bias, net[2].bias):  # slow versions have the weights alone
        bias.requires_grad_(False)
    net.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return net


def gradients(net: nn.Module) -> Callable[[int, Values], Values]:
    """Return a function that computes the gradients of a slow version's loss, by autograd."""
    shapes = {name: net.get_parameter(name).shape for name in WEIGHTS}

    def gradients_at(step: int, weights: Values) -> Values:
        leaves = {
            name: torch.tensor(values, dtype=torch.float64).view(shapes[name]).requires_grad_()
            for name, values in weights.items()
        }
        images, classes = batch(step)
        loss = cross_entropy(torch.func.functional_call(net, leaves, (images,)), classes)
        found = torch.autograd.grad(loss, [*leaves.values()])
        return {name: gradient.flatten().tolist() for name, gradient in zip(leaves, found, strict=True)}

    return gradients_at
