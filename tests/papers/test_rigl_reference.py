"""RigL against the slow and obvious version: every mask, weight and momentum after every batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import slow_rigl
import torch
from loops import Loop, batch, small_network
from slow_rigl import Layer, Settings
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lightning_sparse.methods.throughout.rigl import RigL

BATCHES = 40
# A power of two, so that a fused multiplication and addition rounds as two operations do.
LR = 0.25


class ToDouble(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.double()


def network(seed: int) -> nn.Module:
    return nn.Sequential(ToDouble(), small_network(seed).double())


def gradients(net: nn.Module, layers: list[Layer], number: int) -> list[list[float]]:
    """Return the gradients of a batch by what the slow version has as weights and biases."""
    parameters = list(net.parameters())
    with torch.no_grad():
        for parameter, layer in zip(parameters, layers, strict=True):
            parameter.copy_(torch.tensor(layer.weight, dtype=torch.float64).view(parameter.shape))
    images, classes = batch(number)
    found = torch.autograd.grad(cross_entropy(net(images), classes), parameters)
    return [each.reshape(-1).tolist() for each in found]


def as_layers(loop: Loop) -> list[Layer]:
    """Return all parameters; a bias is a layer without inactive weights."""
    masks = loop.network.masks
    return [
        Layer(
            parameter.detach().reshape(-1).tolist(),
            masks.get(name, torch.ones(parameter.shape, dtype=torch.bool)).reshape(-1).tolist(),
            momentum_of(loop, parameter).reshape(-1).tolist(),
        )
        for name, parameter in loop.net.named_parameters()
    ]


def momentum_of(loop: Loop, parameter: nn.Parameter) -> Tensor:
    momentum = loop.optimizer.state.get(parameter, {}).get("momentum_buffer")
    return torch.zeros_like(parameter) if momentum is None else momentum


def where_active(layers: list[Layer]) -> list[list[float]]:
    return [[value for value, kept in zip(each.momentum, each.mask, strict=True) if kept] for each in layers]


def by_both(
    density: float, seed: int, every: int, until: int | float, rate: float, momentum: float = 0.9
) -> tuple[list[list[Layer]], list[list[Layer]], list[bool]]:
    """Return the layers after every batch, by the package and by the slow version, and which batches updated."""
    make: Callable[..., SGD] = partial(SGD, lr=LR, momentum=momentum)
    method = RigL(every_n_steps=every, until=until, prune_rate=rate)
    loop = Loop(method, density, network(seed), BATCHES, make, seed=seed)
    slow, copy = as_layers(loop), network(seed)
    fast_states: list[list[Layer]] = []
    loop.train(BATCHES, lambda each: fast_states.append(as_layers(each)))
    settings = Settings(every, until if isinstance(until, int) else until * BATCHES, rate, LR, momentum)
    slow_states, updates = [], []
    for updated in slow_rigl.train(slow, partial(gradients, copy, slow), BATCHES, settings):
        slow_states.append([Layer(list(each.weight), list(each.mask), list(each.momentum)) for each in slow])
        updates.append(updated)
    return fast_states, slow_states, updates


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_mask_weight_and_momentum_is_that_of_the_slow_version(density: float, seed: int) -> None:
    fast, slow, updates = by_both(density, seed, every=4, until=0.75, rate=0.3)
    assert sum(updates) == 8  # of 32 steps that train, at 0, 4, ..., 28
    for ours, theirs in zip(fast, slow, strict=True):
        assert [each.mask for each in ours] == [each.mask for each in theirs]
        assert [each.weight for each in ours] == [each.weight for each in theirs]
        assert where_active(ours) == where_active(theirs)
    assert fast[-1][0].mask != fast[0][0].mask


@pytest.mark.parametrize(
    ("every", "until", "rate", "momentum"), [(1, 1.0, 1.0, 0.0), (3, 20, 0.5, 0.5), (7, 0.5, 0.05, 0.9), (2, 9, 0.0, 0)]
)
def test_every_option_means_what_it_means_in_the_slow_version(
    every: int, until: int | float, rate: float, momentum: float
) -> None:
    fast, slow, _ = by_both(0.4, 3, every, until, rate, momentum)
    for ours, theirs in zip(fast, slow, strict=True):
        assert [each.mask for each in ours] == [each.mask for each in theirs]
        assert [each.weight for each in ours] == [each.weight for each in theirs]
