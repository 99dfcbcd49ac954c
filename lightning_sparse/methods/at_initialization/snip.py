"""SNIP: one pruning before training, by the connection sensitivities of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.methods.base import Method, Progress
from lightning_sparse.methods.driver import are_finite, gradients
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.network.dtensor import to_local
from lightning_sparse.topology.layer import LayerView, uses
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.validation.errors import InvalidStateError, InvalidTypeError, InvalidValueError
from lightning_sparse.validation.numbers import is_integer

# Steps with gradients of some weights, after which the others are given up: optimizers that alternate take fewer.
_MOST_STEPS = 100
_STATE = {"is_pruned", "scores", "waited"}


@uses("gradient", shardable=True)
def connection_sensitivity(layer: LayerView) -> Tensor:
    """Score `|gradient * weight|`, at least in single precision (Lee et al. 2019, section 4.1, arXiv 1810.02340).

    It is the magnitude of the loss's derivative by the weight's mask, where the mask is 1. The paper divides it by its
    sum over the network, which ranks weights in the same order.
    """
    wide = torch.promote_types(layer.weight.dtype, torch.float32)  # products in half precision would vanish
    return (layer.require("gradient").to(wide) * layer.weight.to(wide)).abs()


@uses("sensitivity", shardable=True)
def _held_sensitivity(layer: LayerView) -> Tensor:
    return layer.require("sensitivity")


class Snip(Method):
    """Single-shot network pruning (SNIP, Lee et al. 2019, arXiv 1810.02340): a sparse network that then stays as it is.

    The network is dense until its first gradients are ready. Then `connection_sensitivity` scores all weights, which
    are ranked together, and exactly `round(density * N)` keep their values, those with the highest scores (ties go to
    the first layer, and to the lower index). That step is left out, as its gradients are those of the dense network. A
    density for each pattern of layers ranks the layers of each pattern on their own.

    A ranking of the whole network can take all weights of a layer, through which nothing could be learned any more:
    `min_active` of the network, 1 by default, protects every layer from that.

    If several optimizers step the weights, the scores of each are taken when its gradients are ready for the first
    time, and the network is pruned when all weights have some. Steps before that are left out, too. Gradients that are
    infinite or NaN, as in a step that a gradient scaler skips, are not used.

    Differences to the paper: only maskable weights are scored and pruned, no biases. The batch is the first one, with
    all that is accumulated for its step, in training mode and with all terms of the loss, where the authors' code
    scores the data's loss only. The weights that were scored are trained; the authors' code (`snip/model.py` of
    namhoonlee/snip-public) scores one random initialization and trains another one. The paper's is variance scaling
    (Glorot), to be chosen in the module.

    Args:
        skip_scored_step: Whether to leave out the step whose gradients were scored. If not, it trains the weights that
            were kept, by the gradients of the dense network.

    Raises:
        TypeError: If it is not a truth value.
    """

    budget = "reached"

    def __init__(self, skip_scored_step: bool = True) -> None:
        if not isinstance(skip_scored_step, bool):
            raise InvalidTypeError(
                expected="skip_scored_step to be True or False",
                got=repr(skip_scored_step),
                cure="True, the default, leaves the step out",
            )
        self._skips = skip_scored_step
        self._is_pruned = False
        self._scores: dict[str, Tensor] = {}
        # Steps in which some weights had gradients and others had none yet.
        self._waited = 0
        self._shapes: dict[str, torch.Size] = {}
        self._names: list[str] = []

    def starting_density(self, density: Density) -> Density:
        """Return 1: the scored network is dense."""
        return 1.0

    def prepare(self, network: SparseNetwork) -> None:
        """Take note of the weights to score: those with a mask that are not frozen at the start of the run."""
        parameters, layers = network.maskable, network.layers
        self._shapes = {name: parameter.shape for name, parameter in parameters.items()}
        self._names = [name for name, layer in layers.items() if not layer.dense and parameters[name].requires_grad]

    def begin(self, network: SparseNetwork, density: Density) -> None:
        """Forget the scores of an earlier run."""
        self._is_pruned, self._scores, self._waited = False, {}, 0

    def gradients_ready(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        """Score the weights that have gradients for the first time, and prune once all of them have scores.

        Raises:
            RuntimeError: If some weights have no gradient in 100 steps in which others have.
            NonFiniteError: If a weight is NaN or infinite.
        """
        if self._is_pruned:
            return
        found = gradients(network, names)
        if not are_finite(found.values()):
            network.check_finite()  # else a gradient scaler skips this step
            return
        self._scores |= {name: _score(network, name, each) for name, each in found.items() if name not in self._scores}
        self.skip_step = self._skips
        if not self._missing():
            self._prune(network)
            return
        self._waited += 1
        if self._waited >= _MOST_STEPS:
            raise _no_gradient(self._missing(), f"none in {self._waited} steps in which other weights had gradients")

    def _missing(self) -> list[str]:
        return [name for name in self._names if name not in self._scores]

    def _prune(self, network: SparseNetwork) -> None:
        parameters = network.maskable
        scores = {name: score.to(to_local(parameters[name]).device) for name, score in self._scores.items()}
        recipe = Recipe(_held_sensitivity, ranking="network")
        # Some may be frozen while another optimizer steps, as `toggle_optimizer` does it.
        network.rewire(
            recipe, density=self.density, names=self._names, signals={"sensitivity": scores}, record=self._end
        )

    def _end(self, changes: tuple[LayerChange, ...]) -> None:
        self._is_pruned, self._scores = True, {}
        if self.record is not None:
            self.record(changes)

    def finish(self, network: SparseNetwork) -> None:
        """Check that the network was pruned, unless none of its gradients was finite.

        Raises:
            RuntimeError: If some weights never had a gradient.
        """
        if self._scores:
            raise _no_gradient(self._missing(), "none in the whole run, so that the network was not pruned")

    def state_dict(self) -> dict[str, Any]:
        """Return the scores so far, and whether the network is pruned."""
        return {"is_pruned": self._is_pruned, "scores": dict(self._scores), "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: If it is not one of this method, or its scores are not those of this network's weights.
        """
        usable = isinstance(state, Mapping) and set(state) == _STATE and is_integer(state["waited"], 0)
        if not (usable and isinstance(state["is_pruned"], bool) and self._have_shapes(state["scores"])):
            raise InvalidValueError(
                expected="the state of a Snip on this network: scores of the weights' shapes, and steps",
                got=repr(state)[:80],
                cure="resume with the model and the method of the run that was saved",
            )
        self._is_pruned, self._scores = state["is_pruned"], dict(state["scores"])
        self._waited = int(state["waited"])

    def _have_shapes(self, scores: object) -> bool:
        return isinstance(scores, Mapping) and all(
            isinstance(score, Tensor) and score.shape == self._shapes.get(name) for name, score in scores.items()
        )


@torch.no_grad()
def _score(network: SparseNetwork, name: str, gradient: Tensor) -> Tensor:
    weight = to_local(network.maskable[name]).detach()
    mask = torch.ones_like(weight, dtype=torch.bool)
    return connection_sensitivity(LayerView(name, weight, mask, torch.Generator(), gradient=gradient))


def _no_gradient(names: Sequence[str], got: str) -> InvalidStateError:
    return InvalidStateError(
        expected=f"a gradient of {', '.join(names)}, by which Snip scores a weight",
        got=got,
        cure="leave weights out that the loss doesn't depend on, with exclude or requires_grad=False",
    )
