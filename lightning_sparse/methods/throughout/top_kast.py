"""Top-KAST: the largest weights compute, a few more are trained, and all of them may come to compute."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.methods.base import Method, Progress
from lightning_sparse.methods.driver import gradients
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.topology.layer import LayerView, uses
from lightning_sparse.topology.packing import pack_mask, unpack_mask
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.select import top_k_mask
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import check_integer, check_real, is_integer

_STATE = {"theta", "trained", "steps"}


@uses("theta", shardable=True)
def theta_magnitude(layer: LayerView) -> Tensor:
    """Score `|theta|`, of the values that weights keep while they are inactive (Jayakumar et al. 2021, section 2.1)."""
    return layer.require("theta").abs()


# Pruning all of a layer's weights and growing as many by the same score leaves the highest of all.
_SELECTION = Recipe(prune=theta_magnitude, grow=theta_magnitude)


def trained_set(theta: Tensor, active: Tensor, extra: float) -> Tensor:
    """Return the backward set B of one layer, which contains the forward set A.

    Exactly `round(n + extra * size)` weights, at most all, where n are active: besides these the largest `|theta|`, of
    equal ones those with the lowest index.

    Args:
        theta: Values of all weights, any shape.
        active: Forward set, bool, same shape.
        extra: Fraction in [0, 1] of the layer's weights, the paper's M.

    >>> trained_set(torch.tensor([3.0, -1.0, 2.0, 0.5]), torch.tensor([True, False, False, False]), 0.25)
    tensor([ True, False,  True, False])
    """
    count = int(torch.count_nonzero(active))
    wanted = min(theta.numel(), round(count + extra * theta.numel()))
    return active | top_k_mask(theta.abs(), wanted - count, ~active)


def exploration_gradient(theta: Tensor, active: Tensor, trained: Tensor, density: float, power: float) -> Tensor:
    """Return the gradient of the exploration penalty, same shape (Jayakumar et al. 2021, section 2.3).

    The penalty is `|theta|**power` in the forward set, `|theta|**power / D` in the rest of the backward set and 0
    elsewhere, where D is the density: weights that don't compute have to grow all the more to take the place of others.

    Args:
        theta: Values of all weights of a layer.
        active: Forward set, bool, same shape.
        trained: Backward set, bool, same shape.
        density: Fraction in (0, 1] of the layer's weights in the forward set.
        power: Exponent, at least 1.

    >>> active, trained = torch.tensor([True, False, False, False]), torch.tensor([True, True, False, False])
    >>> exploration_gradient(torch.tensor([-3.0, 2.0, 1.0, 1.0]), active, trained, 0.25, 2.0)
    tensor([-6., 16.,  0.,  0.])
    """
    slope = power * theta.abs() ** (power - 1) * theta.sign()
    return torch.where(active, slope, torch.where(trained, slope / density, torch.zeros_like(slope)))


def stepped_theta(theta: Tensor, parameter: Tensor, active: Tensor, trained: Tensor) -> Tensor:
    """Return theta after a step of an optimizer, same shape (Jayakumar et al. 2021, section 2.2).

    Args:
        theta: Values of all weights before the step.
        parameter: The weight after the step, which was theta in the forward set and zero elsewhere before.
        active: Forward set, bool, same shape.
        trained: Backward set, bool, same shape.

    >>> theta, parameter = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([2.5, -0.5, -0.5])
    >>> stepped_theta(theta, parameter, torch.tensor([True, False, False]), torch.tensor([True, True, False]))
    tensor([2.5000, 1.5000, 1.0000])
    """
    return torch.where(active, parameter, torch.where(trained, theta + parameter, theta))


class TopKast(Method):
    """Compute with the largest weights and train some more: Top-KAST (Jayakumar et al. 2021, arXiv 2106.03517).

    Every weight has a value theta. The forward set A, the largest of each layer at the density that is asked for, is
    the mask: parameters are theta in A and exactly zero elsewhere. The backward set B has the next largest besides, of
    which gradients are applied to theta, too. Every few steps both sets are chosen again, so a weight of B that has
    outgrown one of A takes its place, with its value. Weights outside of B keep theirs.

    What differs from the paper, or is left open by it:

    - D in the penalty of B is the density of the layer, as layers may have different ones here; in the paper all have
      the same. Exact counts: A is the layer's share of the budget, B is `round(n + extra * size)`.
    - The penalty takes the place of weight decay: an optimizer's own weight decay shrinks A alone, as the parameter is
      zero elsewhere. For the same reason an optimizer that scales steps by the norm of a weight (LARS,
      LAMB) measures A. Its momentum is kept where sets change.
    - Exploration lasts until training ends. Then the parameters are theta in A, an ordinary sparse network.

    All layers get the same density, or those of a mapping of layer patterns: `distribution` has no effect, as the run
    begins with all weights.

    Args:
        extra: Fraction in [0, 1] of each layer's weights that are trained though they don't compute, the paper's M;
            0 makes B the same as A. Default: 0.1, a choice of ours.
        every_n_steps: Number of optimizer steps between choices of the sets. Default: 100, about the paper's.
        penalty: Coefficient >= 0 of the exploration penalty. Default: 1e-4, a usual weight decay.
        power: Exponent of the penalty, at least 1, the paper's p. Default: 2.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, extra: float = 0.1, every_n_steps: int = 100, penalty: float = 1e-4, power: float = 2.0) -> None:
        self._extra = check_real(
            extra, 0, 1, expected="extra as a fraction in [0, 1] of each layer's weights", cure="0.1 is the default"
        )
        self._every_n_steps = check_integer(
            every_n_steps, 1, expected="every_n_steps as a number of optimizer steps >= 1", cure="100 is the default"
        )
        self._coefficient = _finite(penalty, 0, "penalty", "1e-4 is the default, 0 turns it off")
        self._power = _finite(power, 1, "power", "2 is the default")
        self._theta: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] = {}
        # Steps of each weight since its sets were chosen.
        self._steps: dict[str, int] = {}

    def starting_density(self, density: Density) -> Density:
        """Return 1: the initial weights are theta, of which the sets are chosen."""
        return 1.0

    def prepare(self, network: SparseNetwork) -> None:
        """Take note of the masked weights, as which theta begins."""
        masked = {name: each for name, each in network.maskable.items() if network.local_mask(name) is not None}
        self._theta = {name: each.detach().clone() for name, each in masked.items()}
        self._trained, self._steps = {}, dict.fromkeys(masked, 0)

    @torch.no_grad()
    def begin(self, network: SparseNetwork, density: Density) -> None:
        """Choose the sets at the density that is asked for."""
        network.rewire(_SELECTION, density=density, signals={"theta": self._theta})
        for name in self._theta:
            self._choose_trained(network, name)

    @torch.no_grad()
    def gradients_ready(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        """Keep the gradients of the backward set only, and add that of the exploration penalty."""
        parameters, layers = network.maskable, network.layers
        for name, gradient in gradients(network, names).items():
            parameter, layer = parameters[name].detach(), layers[name]
            active, trained = self._sets(network, name)
            gradient.masked_fill_(~trained, 0)
            if self._coefficient:
                theta = torch.where(active, parameter, self._theta_of(name, parameter))
                density = max(layer.active, 1) / layer.size  # min_active may be 0
                added = exploration_gradient(theta, active, trained, density, self._power)
                gradient.add_(added.to(gradient.dtype), alpha=self._coefficient)

    @torch.no_grad()
    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        """Take over what the optimizer did to the backward set; choose the sets again if that is due."""
        parameters = network.maskable
        for name in names:
            parameter = parameters[name].detach()
            theta = self._theta_of(name, parameter)
            self._theta[name] = stepped_theta(theta, parameter, *self._sets(network, name))
            self._steps[name] += 1
        if due := [name for name in names if self._steps[name] >= self._every_n_steps]:
            self._choose(network, due)

    def _choose(self, network: SparseNetwork, names: Collection[str]) -> None:
        # Those that another optimizer steps have their own turn.
        recipe = _SELECTION if len(names) == len(self._theta) else dict.fromkeys(names, _SELECTION)
        network.rewire(recipe, 1.0, signals={"theta": self._theta})
        parameters = network.maskable
        for name in names:
            parameter = parameters[name].detach()
            theta = self._theta_of(name, parameter)
            parameter.copy_(torch.where(_active(network, name), theta, torch.zeros_like(theta)))
            self._choose_trained(network, name)
            self._steps[name] = 0

    def _choose_trained(self, network: SparseNetwork, name: str) -> None:
        self._trained[name] = trained_set(self._theta[name], _active(network, name), self._extra)

    def _sets(self, network: SparseNetwork, name: str) -> tuple[Tensor, Tensor]:
        """Return the forward and the backward set of a weight, where the weight is."""
        active = _active(network, name)
        trained = self._trained[name] = self._trained[name].to(active.device)
        return active, trained

    def _theta_of(self, name: str, parameter: Tensor) -> Tensor:
        """Return theta where the weight is now, and in its dtype."""
        theta = self._theta[name] = self._theta[name].to(parameter.device, parameter.dtype)
        return theta

    def state_dict(self) -> dict[str, Any]:
        """Return theta, the backward sets at one bit per weight, and the steps since they were chosen."""
        return {
            "theta": {name: theta.clone() for name, theta in self._theta.items()},
            "trained": {name: pack_mask(trained) for name, trained in self._trained.items()},
            "steps": dict(self._steps),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state, after `prepare`.

        Raises:
            ValueError: If it is not one of this method and these weights.
        """
        shapes = {name: tuple(theta.shape) for name, theta in self._theta.items()}
        _check_state(state, shapes)
        trained = {name: unpack_mask(state["trained"][name], shape) for name, shape in shapes.items()}
        self._theta = {name: state["theta"][name].detach().clone() for name in shapes}
        self._trained, self._steps = trained, {name: state["steps"][name] for name in shapes}


def _active(network: SparseNetwork, name: str) -> Tensor:
    mask = network.local_mask(name)
    assert mask is not None  # as theta is that of masked weights
    return mask.bool()


def _finite(value: object, minimum: float, name: str, cure: str) -> float:
    checked = check_real(value, minimum, expected=f"{name} as a finite number >= {minimum}", cure=cure)
    if checked == inf:
        raise InvalidValueError(expected=f"{name} as a finite number >= {minimum}", got=value, cure=cure)
    return checked


def _check_state(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    parts = dict(state) if isinstance(state, Mapping) else {}
    is_ours = set(parts) == _STATE and all(isinstance(part, Mapping) for part in parts.values())
    if not is_ours or any(set(part) != set(shapes) for part in parts.values()):
        raise InvalidValueError(
            expected=f"theta, backward sets and steps of {', '.join(shapes)}",
            got=", ".join(f"{name} of {', '.join(map(str, part))}" for name, part in parts.items())[:200]
            if is_ours
            else repr(sorted(map(str, parts)))[:80],
            cure="resume with the method and the layers of the run that was saved",
        )
    for name, shape in shapes.items():
        theta, packed, steps = (parts[part][name] for part in ("theta", "trained", "steps"))
        is_theta = isinstance(theta, Tensor) and theta.is_floating_point() and tuple(theta.shape) == shape
        if not is_theta or not isinstance(packed, Tensor) or not is_integer(steps, 0):
            raise InvalidValueError(
                expected=f"theta of shape {shape}, a packed backward set and a number of steps >= 0 for {name!r}",
                got=", ".join(_brief(each) for each in (theta, packed, steps)),
                cure="the state is damaged, load another checkpoint",
            )


def _brief(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)[:80]
