"""SNIP against the slow and obvious version: the mask of the first batch, and every weight after every later one."""

from __future__ import annotations

import pytest
import slow_snip
import torch
from loops import Loop, batch, small_network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lightning_sparse.methods.at_initialization.snip import Snip

BATCHES = 25
# A power of two, so that a fused multiplication and addition rounds as two operations do.
LR = 0.25
SIZES = (120, 40)


class Scaled(nn.Module):
    """Multiplies its inputs."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        return values.double() * self.factor


def network(seed: int, factor: float = 1.0) -> nn.Module:
    """Return a network whose inputs, and so its first layer's gradients, are multiplied by a factor."""
    net = nn.Sequential(Scaled(factor), small_network(seed).double())
    with torch.no_grad():
        net.get_parameter("1.0.bias").abs_()  # all units are active where inputs are small
    return net


def flat(net: nn.Module) -> list[list[float]]:
    return [parameter.detach().reshape(-1).tolist() for parameter in net.parameters()]


def gradients(net: nn.Module, values: list[list[float]], number: int) -> list[list[float]]:
    """Return the gradients of a batch by what the slow version has as weights and biases."""
    parameters = list(net.parameters())
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(torch.tensor(value, dtype=torch.float64).view(parameter.shape))
    images, classes = batch(number)
    found = torch.autograd.grad(cross_entropy(net(images), classes), parameters)
    return [each.reshape(-1).tolist() for each in found]


def by_the_package(
    net: nn.Module, density: float, min_active: int, skips: bool = True
) -> tuple[list[list[list[bool]]], list[list[list[float]]]]:
    """Return the masks of both layers, and all weights and biases, after every batch."""
    loop = Loop(Snip(skips), density, net, BATCHES, lambda own: SGD(own, lr=LR), min_active=min_active)
    masks: list[list[list[bool]]] = []
    weights: list[list[list[float]]] = []

    def look(each: Loop) -> None:
        masks.append([mask.reshape(-1).tolist() for mask in each.network.masks.values()])
        weights.append(flat(each.net))

    loop.train(BATCHES, look)
    return masks, weights


def slowly(
    net: nn.Module, density: float, min_active: int, skips: bool = True
) -> tuple[list[list[bool]], list[list[list[float]]]]:
    values, states = flat(net), []
    first = gradients(net, values, 0)
    chosen = slow_snip.masks([values[0], values[2]], [first[0], first[2]], round(density * sum(SIZES)), min_active)
    kept = [chosen[0], [True] * len(values[1]), chosen[1], [True] * len(values[3])]
    for number in range(BATCHES):
        found = first if number == 0 else gradients(net, values, number)
        for value, mask, gradient in zip(values, kept, found, strict=True):
            leaves_out = skips and number == 0
            slow_snip.step(value, mask, gradient, 0.0 if leaves_out else LR)
        states.append([list(value) for value in values])
    return chosen, states


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_mask_and_every_weight_are_those_of_the_slow_version(density: float, seed: int) -> None:
    masks, weights = by_the_package(network(seed), density, 1)
    expected, states = slowly(network(seed), density, 1)
    assert masks == [expected] * BATCHES
    assert weights == states
    assert sum(map(sum, expected)) == round(density * 160)


def test_a_step_that_is_not_left_out_is_that_of_the_slow_version() -> None:
    masks, weights = by_the_package(network(0), 0.3, 1, skips=False)
    expected, states = slowly(network(0), 0.3, 1, skips=False)
    assert masks == [expected] * BATCHES
    assert weights == states
    assert weights != by_the_package(network(0), 0.3, 1)[1]


@pytest.mark.parametrize(("min_active", "first_layer"), [(0, 0), (1, 1), (5, 5)])
def test_a_layer_that_would_lose_all_weights_keeps_its_best(min_active: int, first_layer: int) -> None:
    masks, weights = by_the_package(network(0, factor=1e-6), 0.1, min_active)
    expected, states = slowly(network(0, factor=1e-6), 0.1, min_active)
    assert masks == [expected] * BATCHES
    assert weights == states
    assert [*map(sum, expected)] == [first_layer, 16 - first_layer]


def test_units_without_gradient_tie_and_the_lower_index_is_kept_in_both() -> None:
    def dead() -> nn.Module:
        net = network(0)
        with torch.no_grad():
            net.get_parameter("1.0.bias")[:5] = -1e3  # half of the units are never active: no gradient
        return net

    masks, _ = by_the_package(dead(), 0.7, 1)
    expected, _ = slowly(dead(), 0.7, 1)
    assert masks == [expected] * BATCHES
    assert 0 < sum(expected[0][:60]) < 60
