"""Deep rewiring: connections with fixed signs, replaced by random ones in the step in which they cross zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from sys import float_info
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.methods.base import Method, Progress
from lightning_sparse.methods.driver import gradients
from lightning_sparse.methods.optimizer_state import clear_state, learning_rate
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.network.seeding import generator_in
from lightning_sparse.topology.growth.random import random
from lightning_sparse.topology.layer import LayerView, uses
from lightning_sparse.topology.packing import pack_mask, unpack_mask
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.numbers import check_real

# Of a connection that becomes active (the released script's `epsilon`).
_SMALLEST = 1e-12
# The released script's `gdnoise`.
_GRADIENT_NOISE = 1e-5


def first_signs(weight: Tensor, active: Tensor, random_signs: Tensor) -> Tensor:
    """Return the fixed sign of each connection: that of its value, else a random one.

    Args:
        weight: Values at the start, any shape.
        active: Whether a connection is active at the start, bool, of the same shape.
        random_signs: Signs of the inactive connections and of active ones of value zero, -1 or 1, of the same shape.

    Returns:
        -1 or 1, shape, dtype and device of the weight.
    """
    signs = random_signs.to(weight.device, weight.dtype)
    return torch.where(active & (weight != 0), torch.sign(weight), signs)


def first_value(dtype: torch.dtype) -> float:
    """Return theta of a connection that becomes active.

    That is 1e-12, as in the released script; in float16, which has no such number, the smallest positive normal one,
    6.1e-5.
    """
    return _SMALLEST if torch.tensor(_SMALLEST, dtype=dtype).item() > 0 else float(torch.finfo(dtype).smallest_normal)


def noise_deviation(rate: float, gradient_noise: float, temperature: float | None) -> float:
    """Return the standard deviation of the noise that a step adds to each active connection's theta.

    Args:
        rate: Learning rate eta of the step.
        gradient_noise: Standard deviation of noise in the gradient.
        temperature: Temperature T, which counts instead of the gradient noise; or None.
    """
    return rate * gradient_noise if temperature is None else sqrt(2 * rate * temperature)


def has_crossed(weight: Tensor, sign: Tensor, active: Tensor) -> Tensor:
    """Tell which active connections have theta <= 0, bool; three tensors of one shape, the last of them bool."""
    return (weight * sign <= 0).logical_and_(active)


def start(weight: Tensor, sign: Tensor, where: Tensor) -> None:
    """Give the connections at some positions the first value of an active one, in place; tensors of one shape."""
    weight.copy_(torch.where(where, sign * first_value(weight.dtype), weight))


@uses("sign", shardable=True)
def count_crossed(layer: LayerView) -> Tensor:
    """Count the active connections with theta <= 0, all of which become dormant (Bellec et al. 2018, Algorithm 1)."""
    return torch.count_nonzero(has_crossed(layer.weight, layer.require("sign"), layer.mask))


@uses("sign", shardable=True)
def theta(layer: LayerView) -> Tensor:
    """Score by theta, the weight times the connection's sign (Bellec et al. 2018, Algorithm 1)."""
    return layer.weight * layer.require("sign")


# Uniform noise ranks all connections that are not active, those that became dormant just now too.
_REWIRING = Recipe(prune=theta, grow=random, count=count_crossed)


class DeepRewiring(Method):
    """Deep rewiring (DEEP R: Bellec et al. 2018, arXiv 1711.05136, Algorithm 1).

    Each connection has a sign s that never changes, and a weight `w = s * theta` if theta > 0; else it is dormant, and
    w = 0. A step changes the theta of active connections only, by `- eta * dE/dtheta - eta * alpha + sqrt(2 * eta * T)
    * nu`, with learning rate eta, L1 coefficient alpha, temperature T and standard normal noise nu. Right after it,
    connections with theta <= 0 become dormant, and in their place each layer activates as many of its dormant
    connections, drawn uniformly, with theta = 1e-12: every layer has its number of active connections after every
    step. Those that became dormant just now can be drawn, too.

    Here weights are ordinary signed ones: a connection is active where the mask is, and dormant in the step in which
    its weight crosses zero. `alpha * s` is added to the gradients of active weights before the step, which any
    optimizer takes; noise is added after it.

    What the paper leaves open, or what is different here:

    - Signs: of connections that are active at first they are those of the initial weights, others are random. The
      released script draws all at random, together with the magnitudes of a symmetric distribution, which comes to the
      same and would change the weights that somebody initialized. An active weight of exactly zero starts as a
      connection that was just activated.
    - Noise: the released script's, `eta * N(0, 1e-5^2)`, which is that of the paper with T = eta * 1e-10 / 2, since
      the temperatures of the paper are unknown to us. With `temperature` it is the paper's with a constant T. Mostafa &
      Wang 2019 (arXiv 1902.05967), whose results other papers compare with, lower T from 1e-5 to 1e-15 in the run, add
      the noise `N(0, 2 * eta * T)` to the gradient, and keep dormant connections from returning in the same step.
    - L1 and noise apply to the connections that were active before the step; the script's, to those that still are
      after the gradient's part of it. With gradients clipped by norm, the L1 term is part of what is clipped. Adam and
      its like divide it by their second moment.
    - Momentum: the paper has none. Optimizers here see gradients of dormant connections, too, and keep momentum of
      them; it is cleared when a connection becomes active, as its theta had no gradient before. Adam, whose bias
      correction counts the steps of the whole weight, then takes up to three times its usual first step.
    - Weight decay is left as it is; the paper and the script have none. It pulls theta to zero, never below.
    - float16 has no 1e-12: theta starts at its smallest normal number, 6.1e-5. Noise that is small compared with the
      precision of a weight is lost in rounding, in 16 bits that of the default.

    In a layer without inactive weights a connection that crosses zero starts again at 1e-12 with its sign. Frozen
    layers and those that stay dense are left alone. For each weight, one more tensor of its size is kept: the signs.

    Args:
        l1: Coefficient alpha >= 0 of the L1 penalty; 1e-5 in the released script.
        gradient_noise: Standard deviation >= 0 of the noise in the gradient, as in the released script; multiplied by
            the learning rate, it is that of the noise in a step. 0 for none. Default: 1e-5, unless there is a
            temperature.
        temperature: Temperature T >= 0 of the paper's noise, `sqrt(2 * eta * T)` per step, instead of gradient noise.
        reset_momentum: Whether optimizers forget momentum and second moments of a connection that becomes active.

    Raises:
        ValueError: If a number is negative or not finite, or if there are two kinds of noise.
        TypeError: If `reset_momentum` is not a truth value.
    """

    _generator: torch.Generator | None = None

    def __init__(
        self,
        l1: float = 1e-5,
        gradient_noise: float | None = None,
        temperature: float | None = None,
        reset_momentum: bool = True,
    ) -> None:
        self.l1 = _check_scale("L1 coefficient", l1, "1e-5, as in the released script")
        if gradient_noise is not None and temperature is not None:
            raise InvalidValueError(
                expected="one kind of noise",
                got=f"gradient_noise={gradient_noise!r} and temperature={temperature!r}",
                cure="drop one of them; temperature = learning rate * gradient_noise ** 2 / 2 gives the same",
            )
        noise = _GRADIENT_NOISE if gradient_noise is None else gradient_noise
        self.gradient_noise = _check_scale("gradient noise", noise, "1e-5, as in the released script")
        if temperature is not None:
            temperature = _check_scale("temperature", temperature, "0 for no noise, or leave it out")
        self.temperature = temperature
        if not isinstance(reset_momentum, bool):
            raise InvalidTypeError(expected="True or False", got=repr(reset_momentum), cure="reset_momentum=True")
        self.reset_momentum = reset_momentum
        self._signs: dict[str, Tensor] = {}
        self._shapes: dict[str, torch.Size] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: not every PyTorch copies generators."""
        generator = self._generator
        return {**vars(self), "_generator": None if generator is None else generator.get_state()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._generator = None if state["_generator"] is None else generator_in(state["_generator"])

    def prepare(self, network: SparseNetwork) -> None:
        """Note which weights have masks."""
        masked = {name: each for name, each in network.maskable.items() if network.local_mask(name) is not None}
        self._shapes = {name: parameter.shape for name, parameter in masked.items()}

    @torch.no_grad()
    def begin(self, network: SparseNetwork, density: Density) -> None:
        """Choose the signs, and start active weights of value zero."""
        self._generator = torch.Generator().manual_seed(network.draw_seed())
        for name, shape in self._shapes.items():
            drawn = torch.randint(2, shape, generator=self._generator, dtype=torch.int8, device="cpu") * 2 - 1
            weight, active = network.maskable[name], _mask(network, name).bool()
            self._signs[name] = first_signs(weight.detach(), active, drawn)
            if weight.requires_grad:
                start(weight, self._signs[name], has_crossed(weight, self._signs[name], active))

    @torch.no_grad()
    def gradients_ready(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        """Add the gradient of the L1 penalty of active weights."""
        if self.l1:
            for name, gradient in gradients(network, names).items():
                gradient.addcmul_(self._sign(network, name), _mask(network, name), value=self.l1)

    @torch.no_grad()
    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        """Add noise to active weights, and replace those that have crossed zero.

        Raises:
            NonFiniteError: If weights have crossed zero, and some weight is NaN or infinite.
        """
        names = [name for name in names if network.maskable[name].requires_grad]
        for name in names:
            self._add_noise(network, name)
        crossed = self._crossed(network, names)
        if not crossed:
            return
        changes = network.rewire(_REWIRING, signals={"sign": {name: self._sign(network, name) for name in self._signs}})
        # Layers without inactive weights don't change.
        for name in dict.fromkeys([*crossed, *(change.name for change in changes if change.grown)]):
            weight, sign = network.maskable[name], self._sign(network, name)
            new = has_crossed(weight, sign, _mask(network, name).bool())
            start(weight, sign, new)
            if self.reset_momentum:
                clear_state(network, name, new)

    def _add_noise(self, network: SparseNetwork, name: str) -> None:
        deviation = noise_deviation(learning_rate(network, name), self.gradient_noise, self.temperature)
        if not deviation:
            return
        weight, number = network.maskable[name], network.layers[name].active
        # Drawn on the CPU, so that it is the same on every device, and for active weights only, one after the other.
        drawn = torch.randn(number, generator=self._generator, dtype=torch.float32, device="cpu")
        drawn = drawn.to(weight.device, weight.dtype)
        noise = torch.zeros_like(weight).masked_scatter_(_mask(network, name).bool(), drawn)
        weight.addcmul_(noise, self._sign(network, name), value=deviation)  # theta gets it

    def _crossed(self, network: SparseNetwork, names: Sequence[str]) -> list[str]:
        """Return the names of the weights of which some have crossed zero; fetched from the device at once."""
        if not names:
            return []
        counts = [
            torch.count_nonzero(
                has_crossed(network.maskable[name], self._sign(network, name), _mask(network, name).bool())
            )
            for name in names
        ]
        fetched = torch.stack([count.to(counts[0].device) for count in counts]).tolist()
        return [name for name, count in zip(names, fetched, strict=True) if count]

    def _sign(self, network: SparseNetwork, name: str) -> Tensor:
        """Return the signs of a weight, where the weight is now and in its dtype."""
        weight, sign = network.maskable[name], self._signs[name]
        if sign.device != weight.device or sign.dtype != weight.dtype:
            sign = self._signs[name] = sign.to(weight.device, weight.dtype)
        return sign

    def state_dict(self) -> dict[str, Any]:
        """Return the signs, at one bit per weight, and the state of the noise's generator."""
        state = {"signs": {name: pack_mask(sign > 0).cpu() for name, sign in self._signs.items()}}
        return state if self._generator is None else {**state, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state, after `prepare`.

        Raises:
            ValueError: If it is not one of this method, or of other weights.
        """
        signs = state.get("signs") if set(state) == {"signs", "generator"} else None
        known = isinstance(signs, Mapping) and set(signs) == set(self._shapes)
        if signs is None or not known or not all(isinstance(each, Tensor) for each in signs.values()):
            raise InvalidValueError(
                expected=f"signs of {', '.join(self._shapes)} and a generator, the state of a DeepRewiring",
                got=repr(dict(state))[:80],
                cure="resume with the method and the model of the run that was saved",
            )
        positive = {name: unpack_mask(signs[name], shape) for name, shape in self._shapes.items()}
        self._generator = generator_in(state["generator"])
        self._signs = {name: each.to(torch.int8) * 2 - 1 for name, each in positive.items()}


def _check_scale(name: str, value: object, cure: str) -> float:
    return check_real(value, 0, float_info.max, expected=f"a finite {name} >= 0", cure=cure)


def _mask(network: SparseNetwork, name: str) -> Tensor:
    mask = network.local_mask(name)
    assert mask is not None  # asked of masked weights only
    return mask
