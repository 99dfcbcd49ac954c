"""Deep rewiring of the package against the slow and obvious version: every mask and every weight after every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from loops import Loop, active, batch, small_network
from slow_deep_rewiring import Layer, first_layer, step
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from lightning_sparse.methods.throughout.deep_rewiring import DeepRewiring
from lightning_sparse.topology.packing import unpack_mask

STEPS = 40
RATE = 1.0  # so that many connections cross zero


def double_network(seed: int) -> nn.Sequential:
    """Return the small network in double precision, for images in single precision."""
    net = small_network(seed)
    net.double().register_forward_pre_hook(lambda _, images: (images[0].double(),))
    return net


def new_loop(method: DeepRewiring, density: float, seed: int) -> Loop:
    net = double_network(seed)
    return Loop(method, density, net, make_optimizer=lambda parameters: SGD(parameters, lr=RATE), seed=seed)


class Slowly:
    """The slow version, with a network of its own and the random numbers that the package is about to draw."""

    def __init__(self, loop: Loop, seed: int, alpha: float, temperature: float) -> None:
        self.net, self.alpha, self.temperature = double_network(seed), alpha, temperature
        state = loop.method.state_dict()
        self._normal = torch.Generator().set_state(state["generator"])
        self._uniform = torch.Generator().set_state(loop.network.state_dict()["generator"])
        self._shapes = {name: mask.shape for name, mask in loop.network.masks.items()}
        self.layers = {name: self._first(name, mask, state["signs"][name]) for name, mask in loop.network.masks.items()}

    def _first(self, name: str, mask: torch.Tensor, signs: torch.Tensor) -> Layer:
        drawn = [1 if positive else -1 for positive in unpack_mask(signs, mask.shape).flatten().tolist()]
        return first_layer(self.net.get_parameter(name).flatten().tolist(), mask.flatten().tolist(), drawn)

    def step(self, number: int) -> int:
        parameters = dict(self.net.named_parameters())
        for name, layer in self.layers.items():
            parameters[name].data = torch.tensor(layer.weights, dtype=torch.float64).view(self._shapes[name])
        features, classes = batch(number)
        loss = cross_entropy(self.net(features), classes)
        found = dict(zip(parameters, torch.autograd.grad(loss, [*parameters.values()]), strict=True))
        for name in parameters:
            if name not in self.layers:
                parameters[name].data -= RATE * found[name]
        by_layer = [found[name].flatten().tolist() for name in self.layers]
        normal, uniform = self._draw_normal, self._draw_uniform
        return step([*self.layers.values()], by_layer, RATE, self.alpha, self.temperature, normal, uniform)

    def _draw_normal(self, count: int) -> Sequence[float]:
        drawn: list[float] = torch.randn(count, generator=self._normal).tolist()
        return drawn

    def _draw_uniform(self, count: int) -> Sequence[float]:
        drawn: list[float] = torch.rand(count, generator=self._uniform).tolist()
        return drawn


def check_steps(density: float, seed: int, method: DeepRewiring, temperature: float) -> int:
    """Compare all steps of a run, and return how many connections became dormant in the slow one."""
    loop = new_loop(method, density, seed)
    slow, budget = Slowly(loop, seed, method.l1, temperature), active(loop.network)
    dormant = 0
    for number in range(STEPS):
        loop.train(1)
        dormant += slow.step(number)
        assert active(loop.network) == budget
        for (name, mask), layer in zip(loop.network.masks.items(), slow.layers.values(), strict=True):
            assert mask.flatten().tolist() == layer.mask
            weights = loop.net.get_parameter(name).detach().flatten().numpy()
            np.testing.assert_allclose(weights, layer.weights, rtol=1e-6, atol=1e-18)
    return dormant


@pytest.mark.parametrize("density", [0.05, 0.3, 0.7, 0.98, 1.0])
def test_every_step_agrees_with_the_slow_version(density: float) -> None:
    # The released script's noise, as a temperature: sqrt(2 * eta * T) = eta * 1e-5.
    dormant = [check_steps(density, seed, DeepRewiring(), RATE * 1e-10 / 2) for seed in range(4)]
    assert sum(dormant) > 0


@pytest.mark.parametrize("l1", [0.0, 0.05])
@pytest.mark.parametrize("temperature", [0.0, 1e-4])
def test_every_step_agrees_with_other_penalties_and_temperatures(l1: float, temperature: float) -> None:
    assert check_steps(0.3, 5, DeepRewiring(l1, temperature=temperature), temperature) > 0


def test_another_temperature_is_noticed() -> None:
    with pytest.raises(AssertionError):
        check_steps(0.3, 0, DeepRewiring(temperature=1e-4), 2e-4)


def test_another_penalty_is_noticed() -> None:
    loop = new_loop(DeepRewiring(gradient_noise=0.0), 0.3, 0)
    slow = Slowly(loop, 0, 2e-5, 0.0)
    loop.train(1)
    slow.step(0)
    weights = loop.net.get_parameter("0.weight").detach().flatten().numpy()
    assert not np.allclose(weights, slow.layers["0.weight"].weights, rtol=1e-6, atol=1e-18)
