"""L0 regularization: a gate for each weight, which training closes where the weight isn't worth its price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_sparse.execution import ComputedWeights, ReplacedForward, replace_forward
from lightning_sparse.methods.base import Method, Progress
from lightning_sparse.methods.dense_to_sparse.hard_concrete import (
    LEAST_LOG_ALPHA,
    MOST_LOG_ALPHA,
    TEMPERATURE,
    Gate,
    draw_log_alpha,
)
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.network.seeding import generator_in
from lightning_sparse.selection.names import named_modules
from lightning_sparse.selection.obstacles import examined
from lightning_sparse.selection.weight import Place
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError
from lightning_sparse.validation.numbers import check_integer, check_real, is_integer
from lightning_sparse.validation.representation import short_text

_STATE = {"log_alpha", "seeds", "random_state", "is_finished"}


class GatedForward:
    """Forward pass of one module with gates on some of its parameters, see `replace_forward`.

    Args:
        gates: Gates by name of the parameter in the module.
    """

    def __init__(self, gates: Mapping[str, Gate]) -> None:
        self.gates = dict(gates)

    def __call__(self, module: nn.Module, original: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of the original forward with gated weights, in the module's mode."""
        computes = {name: partial(gate.gated, training=module.training) for name, gate in self.gates.items()}
        return ComputedWeights(computes)(module, original, *args, **kwargs)


class L0Regularization(Method):
    """Learn which weights a network needs: hard concrete gates (Louizos et al. 2018, arXiv 1712.01312).

    Each weight is multiplied by a gate of its own (unstructured, as Gale et al. 2019, arXiv 1902.09574, have it). In
    training gates are drawn from a hard concrete distribution, whose location log alpha is trained together with the
    weights; the penalty `strength / examples * sum P(gate > 0)` is the expected number of open gates, at a price each.
    In evaluation gates have their value of equation 13. The network is dense while it trains. At the end weights are
    multiplied by their gates, masks are those of the gates that aren't closed, and the plain module computes as before.

    A checkpoint that is saved before training has ended, as those of `ModelCheckpoint` are, has the weights without
    their gates, which are in the callback's state: resume it with the callback, also that of the last epoch, which
    leaves the sparse network. `trainer.save_checkpoint` after the end saves that network. If training fails, weights
    stay without gates. A run that is continued after its end trains the sparse network, without gates.

    What differs from the paper, or is left open by it:

    - There is no density to ask for: it follows from `strength`. A layer may lose all of its weights.
    - Gates are drawn once for each optimizer step, and are then the same for all batches whose gradients are
      accumulated, for weights that are used twice, and in all processes. Without these, the paper does the same.
    - The paper's gates belong to input units or output maps. Its L2 norm, weighted by the probabilities of gates, is
      left out: weight decay is that of the optimizer. This has log alpha among its parameters, with the learning rate
      of the first masked weight; weight decay pulls it to 0, where most gates are open.
    - The authors' moving average of all parameters is left out. Callbacks that average weights (`WeightAveraging`)
      leave log alpha as it is.

    Args:
        strength: Price lambda > 0 of a weight, in units of the loss summed over all examples. Default: 1, as in the
            authors' code for LeNet-5.
        examples: Number N of training examples; only `strength / examples` counts. Default: 60,000, those of MNIST.
        drop_rate: Rate p in (0, 1) at which log alpha begins, at `log((1 - p) / p)`. Default: 0.5, as in the paper.
        temperature: Temperature beta > 0 of the distribution. Default: 2/3, as in the paper.

    Raises:
        ValueError: If an argument is out of range.
    """

    budget = None

    def __init__(
        self,
        strength: float = 1.0,
        examples: int = 60_000,
        drop_rate: float = 0.5,
        temperature: float = TEMPERATURE,
    ) -> None:
        self._strength = _positive(strength, inf, "strength", "1 is the default")
        self._examples = check_integer(
            examples, 1, expected="examples as the number of training examples", cure="len() of the data set"
        )
        self._drop_rate = _positive(drop_rate, 1, "drop_rate", "0.5 is the default")
        self._temperature = _positive(temperature, inf, "temperature", "2/3 is the default")
        self._weights: dict[str, nn.Parameter] = {}
        self._gates: dict[str, Gate] = {}
        self._handles: list[ReplacedForward] = []
        self._random_state = torch.Generator().get_state()
        self._is_finished = False

    def starting_density(self, density: Density) -> Density:
        """Return 1, as gates decide which weights a network keeps."""
        return 1.0

    def prepare(self, network: SparseNetwork) -> None:
        """Make the gates, and let the modules that own the weights compute with them.

        Raises:
            ValueError: If the forward pass of such a module can't be replaced.
        """
        weights = {name: each for name, each in network.maskable.items() if network.local_mask(name) is not None}
        self._weights = {name: each for name, each in weights.items() if each.requires_grad}
        self._gates = {name: Gate(each, self._temperature) for name, each in self._weights.items()}
        self._is_finished = False
        try:
            for module, gates in _gates_by_module(network.model, self._gates):
                self._handles.append(replace_forward(module, GatedForward(gates)))
        except BaseException:
            self.release(network)
            raise

    @torch.no_grad()
    def begin(self, network: SparseNetwork, density: Density) -> None:
        """Draw the initial log alpha, and the gates of the first step."""
        generator = torch.Generator().manual_seed(network.draw_seed())
        for gate in self._gates.values():
            gate.log_alpha.copy_(draw_log_alpha(gate.log_alpha.shape, self._drop_rate, generator))
        self._random_state = generator.get_state()
        self._draw([*self._gates])

    def _draw(self, names: Sequence[str]) -> None:
        generator = generator_in(self._random_state)
        for name in names:
            self._gates[name].draw(int(torch.randint(2**62, (1,), generator=generator)))
        self._random_state = generator.get_state()

    def extra_parameters(self) -> Sequence[nn.Parameter]:
        """Return log alpha of all weights."""
        return [gate.log_alpha for gate in self._gates.values()]

    def penalty(self) -> Tensor | None:
        """Return the price of the weights that are expected to be active: `strength / examples * sum P(gate > 0)`.

        Raises:
            RuntimeError: If a weight has a gradient and its gates have none.
        """
        if self._is_finished or not self._gates:
            return None
        self._check_use()
        sums = [gate.probability().sum() for gate in self._gates.values()]
        return torch.stack([each.to(sums[0].device) for each in sums]).sum() * (self._strength / self._examples)

    def _check_use(self) -> None:
        for name, gate in self._gates.items():
            # Where several optimizers step in turns, the parameters of the others are frozen meanwhile.
            if self._weights[name].grad is not None and gate.log_alpha.grad is None and gate.log_alpha.requires_grad:
                raise InvalidStateError(
                    expected=f"a layer that computes with the gates of {name!r}",
                    got="one that has a gradient though its gates have none, as something else reads its weight",
                    cure=f"leave it dense with exclude={name!r}",
                )

    @torch.no_grad()
    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        """Clamp log alpha, and draw the gates of the next step."""
        if self._is_finished:
            return
        for gate in self._gates.values():
            gate.log_alpha.clamp_(LEAST_LOG_ALPHA, MOST_LOG_ALPHA)
        self._draw([name for name in names if name in self._gates])

    @torch.no_grad()
    def finish(self, network: SparseNetwork) -> None:
        """Multiply the weights by their gates of evaluation, mask those that are closed, and remove the gates."""
        if self._is_finished:
            return
        values = {name: gate.values(training=False) for name, gate in self._gates.items()}
        masks = network.masks  # some may have been inactive from the start
        network.set_masks({name: masks[name] & (value > 0).to(masks[name].device) for name, value in values.items()})
        for name, value in values.items():
            weight = self._weights[name]
            weight.mul_(value.to(weight.device, weight.dtype))
        self._is_finished = True
        self._remove_gates()

    def release(self, network: SparseNetwork) -> None:
        """Restore the original forward passes."""
        self._remove_gates()

    def _remove_gates(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def state_dict(self) -> dict[str, Any]:
        """Return log alpha, the seeds of the present gates, the random state, and whether the run was completed."""
        return {
            "log_alpha": {name: gate.log_alpha.detach().clone() for name, gate in self._gates.items()},
            "seeds": {name: gate.seed for name, gate in self._gates.items()},
            "random_state": self._random_state.clone(),
            "is_finished": self._is_finished,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state, after `prepare`; that of a completed run removes the gates.

        Raises:
            ValueError: If it is not one of this method and these weights.
        """
        _check_state(state, {name: tuple(gate.log_alpha.shape) for name, gate in self._gates.items()})
        for name, gate in self._gates.items():
            gate.log_alpha.copy_(state["log_alpha"][name])
            gate.draw(state["seeds"][name])
        self._random_state = state["random_state"].detach().clone()
        self._is_finished = state["is_finished"]
        if self._is_finished:
            self._remove_gates()


def _gates_by_module(model: nn.Module, gates: Mapping[str, Gate]) -> list[tuple[nn.Module, dict[str, Gate]]]:
    """Return the modules that read gated weights, with the gates by the names of these in the module."""
    modules = dict(named_modules(model, remove_duplicate=False))
    found: dict[int, tuple[nn.Module, dict[str, Gate]]] = {}
    for weight, _ in examined(model):
        for place in weight.places if weight.name in gates else ():
            module, name = _reader(place, modules)
            found.setdefault(id(module), (module, {}))[1][name] = gates[weight.name]
    return [*found.values()]


def _reader(place: Place, modules: Mapping[str, nn.Module]) -> tuple[nn.Module, str]:
    """Return the module that reads a parameter, and its name there: attention reads that of its output projection."""
    if not isinstance(place.module, NonDynamicallyQuantizableLinear):
        return place.module, place.local
    path, _, inner = place.name.removesuffix(f".{place.local}").rpartition(".")
    return modules[path], f"{inner}.{place.local}"


def _positive(value: object, limit: float, name: str, cure: str) -> float:
    expected = f"{name} as a number above 0 and below {limit:g}" if limit < inf else f"{name} as a finite number > 0"
    checked = check_real(value, 0, limit, expected=expected, cure=cure)
    if not 0 < checked < limit:
        raise InvalidValueError(expected=expected, got=repr(value), cure=cure)
    return checked


def _check_state(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    parts = [state.get(part) for part in ("log_alpha", "seeds")] if isinstance(state, Mapping) else [None]
    is_ours = set(state or ()) == _STATE and isinstance(state["is_finished"], bool)
    if not is_ours or not all(isinstance(part, Mapping) and set(part) == set(shapes) for part in parts):
        raise InvalidValueError(
            expected=f"log alpha and seeds of {', '.join(shapes)}, a random state, and whether the run was completed",
            got=short_text(state),
            cure="resume with the method and the layers of the run that was saved",
        )
    for name, shape in shapes.items():
        log_alpha, seed = state["log_alpha"][name], state["seeds"][name]
        is_real = isinstance(log_alpha, Tensor) and log_alpha.is_floating_point()
        if not is_real or tuple(log_alpha.shape) != shape or not is_integer(seed, 0, 2**63 - 1):
            raise InvalidValueError(
                expected=f"log alpha of shape {shape} and a seed for {name!r}",
                got=f"{short_text(log_alpha)} and {short_text(seed)}",
                cure="the state is damaged, load another checkpoint",
            )
    generator_in(state["random_state"])
