"""Calls a method at its places in a training loop, whichever loop that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.methods.base import Method, Progress
from lightning_sparse.methods.optimizer_state import add_parameters
from lightning_sparse.methods.unreached import unreached_density
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.topology.measure import fetch
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.reduction import extremes
from lightning_sparse.validation.errors import InvalidValueError

_STATE = {"method", "phase", "state"}


class MethodDriver:
    """A method at work on a network.

    Args:
        method: The method; it is changed, so pass a copy of one that serves several runs.
        network: Its network, with masks of `method.starting_density`.
        density: Density that the user asks for.
        reduce: Function that returns the mean of a tensor over all processes; for gradients of extra parameters, which
            no wrapper of the model reduces. Default: there is one process.
        record: Function of completed epochs, optimizer steps and changes that records an update of the method.

    Raises:
        ValueError: If weights are split over processes.
    """

    def __init__(
        self,
        method: Method,
        network: SparseNetwork,
        density: Density,
        reduce: Callable[[Tensor], Tensor] | None = None,
        record: Callable[[int, int, tuple[LayerChange, ...]], None] | None = None,
    ) -> None:
        if network.is_sharded:
            raise InvalidValueError(
                expected=f"whole weights in every process, for {type(method).__name__}",
                got="weights that are split over processes",
                cure="train by a strategy that keeps whole weights, such as DDP, or use a recipe",
            )
        self.method, self.network = method, network
        self._density, self._reduce, self._write = density, reduce, record
        method.density, method.record = density, self._record
        self._progress = Progress(0)
        self._is_prepared = False
        # Value of the method's penalty at the last step; None if it has none.
        self.penalty: float | None = None

    def __repr__(self) -> str:
        return f"MethodDriver({self.method!r}, {self._density})"

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it is in no run of several processes."""
        return {**self.__dict__, "_reduce": None}

    def _record(self, changes: tuple[LayerChange, ...]) -> None:
        if self._write is not None:
            self._write(self._progress.epoch, self._progress.step, changes)

    def start(self, state: Mapping[str, Any] | None = None) -> None:
        """Prepare the method, and begin the run or resume it, before the network is attached to optimizers.

        Args:
            state: Result of `state_dict`, to resume from.

        Raises:
            ValueError: If the state is that of another method.
        """
        self._is_prepared = True
        self.method.prepare(self.network)
        if state is None:
            self.method.begin(self.network, self._density)
        else:
            self.load_state_dict(state)

    def attach(self, optimizers: Sequence[Optimizer]) -> None:
        """Act after the steps of the network's optimizers, one of which is to train the method's own parameters.

        Args:
            optimizers: Optimizers that the network is attached to, before their states are restored.
        """
        self.network.act_after_steps(self._after_step)
        extra = list(self.method.extra_parameters())
        groups = [(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
        held = {id(parameter) for _, group in groups for parameter in group["params"]}
        masked = {id(parameter) for parameter in self.network.maskable.values()}
        for optimizer, group in groups:
            if any(id(parameter) in masked for parameter in group["params"]):
                add_parameters(optimizer, group, [parameter for parameter in extra if id(parameter) not in held])
                return

    def gradients_ready(self, optimizer: Optimizer, progress: Progress) -> None:
        """Let the method work with gradients that an optimizer is about to use; call it right before the step.

        Args:
            optimizer: The optimizer.
            progress: Steps so far.
        """
        names = self.network.names_stepped_by(optimizer)
        if not names:
            return
        self._progress = progress
        self._enter_phase(progress)
        self._add_penalty(optimizer)
        self.method.skip_step = False
        self.method.gradients_ready(self.network, names, progress)
        self.network.leave_out_step(optimizer, self.method.skip_step)

    def _enter_phase(self, progress: Progress) -> None:
        method = self.method
        names = [phase.name for phase in method.phases]
        if not names:
            return
        running = [phase.name for phase in method.phases[:-1] if not phase.has_ended(progress)]
        name = running[0] if running else names[-1]
        if name != method.phase:
            method.phase = name
            method.begin_phase(self.network, progress)

    def _add_penalty(self, optimizer: Optimizer) -> None:
        extra = {id(parameter) for parameter in self.method.extra_parameters()}
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        if self._reduce is not None:
            for parameter in parameters:
                if id(parameter) in extra:  # in every process, whether it has a gradient or not
                    own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad = self._reduce(own.detach())
        with torch.enable_grad():
            penalty = self.method.penalty()
        if penalty is None:
            return
        self.penalty = float(penalty.detach())
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if not trained or not penalty.requires_grad:
            return
        # Not backward(): wrappers that reduce gradients would take it for a second backward pass.
        gradients = torch.autograd.grad(penalty, trained, allow_unused=True)
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _after_step(self, names: Sequence[str]) -> None:
        before = self._progress
        self._progress = Progress(before.step + 1, before.epoch, before.total)
        self.method.after_step(self.network, names, self._progress)

    def update(self, progress: Progress) -> None:
        """Let the method update the topology."""
        self._progress = progress
        self.method.update(self.network, progress)

    def finish(self) -> None:
        """Let the method leave an ordinary sparse network, after the last step."""
        self.method.finish(self.network)

    def unreached(self) -> str | None:
        """Return what is to be said if the density that the method is to reach isn't, after `finish`; else None."""
        return unreached_density(self.network, self._density) if self.method.budget == "reached" else None

    def release(self) -> None:
        """Let go of the network's steps and of the model, once."""
        if self._is_prepared:
            self._is_prepared = False
            self.network.act_after_steps(None)
            self.method.release(self.network)
            self.method.record = None  # which refers to this

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs; tensors and plain Python values only."""
        return {"method": type(self.method).__name__, "phase": self.method.phase, "state": self.method.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: If it is that of another method.
        """
        name = type(self.method).__name__
        if not isinstance(state, Mapping) or set(state) != _STATE or state["method"] != name:
            found = state.get("method") if isinstance(state, Mapping) else state
            raise InvalidValueError(
                expected=f"the state of a run with {name}",
                got=repr(found)[:80],
                cure="resume with the method of the run that was saved",
            )
        phases = ["", *(phase.name for phase in self.method.phases)]
        if state["phase"] not in phases:
            raise InvalidValueError(
                expected=f"a phase of {name} in its state, one of {phases}",
                got=repr(state["phase"])[:80],
                cure="load another checkpoint",
            )
        self.method.load_state_dict(state["state"])
        self.method.phase = state["phase"]


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether all numbers of some tensors are finite; waits for the device once."""
    return all(map(isfinite, chain.from_iterable(fetch([extremes(each) for each in tensors]))))


def gradients(network: SparseNetwork, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the gradients of weights that have one now, by name; of sharded ones, the local part. No copies."""
    parameters = network.maskable
    return {name: gradient for name in names if (gradient := local_gradient(parameters[name])) is not None}


def local_gradient(parameter: nn.Parameter) -> Tensor | None:
    """Return the gradient of a parameter, of a sharded one the local part; None if it has none."""
    gradient = parameter.grad
    if gradient is None:
        return None
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient
