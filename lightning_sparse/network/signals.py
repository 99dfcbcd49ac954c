"""Momentum and gradients of the masked weights, from the optimizers that step them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_sparse.network.dtensor import full_tensor, local_part, to_local
from lightning_sparse.network.optimizer_steps import OptimizerStepObserver
from lightning_sparse.validation.errors import InvalidValueError

# Smoothing factor of the average kept where an optimizer has no momentum: the paper's 0.9.
DECAY = 0.9


def has_momentum(optimizer: Optimizer, parameter: Parameter) -> bool:
    """Tell whether `read_momentum` would find something, without computing it."""
    state = optimizer.state.get(parameter, {})
    return state.get("momentum_buffer") is not None or state.get("exp_avg") is not None


def read_momentum(optimizer: Optimizer, parameter: Parameter) -> Tensor | None:
    """Return the momentum that the optimizer's state holds for a parameter, or None if it holds none.

    Of a sharded parameter it is the local part.

    Read by what the state contains, so that subclasses and look-alikes of PyTorch's optimizers work too:

    - `momentum_buffer` (SGD, RMSprop with momentum), as it is. It lacks the factor `1 - alpha` of the paper, which
      changes no rank and no share, and has weight decay in it, which is zero for inactive weights;
    - `exp_avg / (sqrt(exp_avg_sq) + eps)` (Adam, AdamW, NAdam, RAdam), without bias correction, as in the original
      authors' library;
    - `exp_avg / (exp_inf + eps)` (Adamax); `exp_avg` alone where there is no second moment (Lion and others).
    """
    state = {
        key: to_local(value) for key, value in optimizer.state.get(parameter, {}).items() if isinstance(value, Tensor)
    }
    buffer = state.get("momentum_buffer")
    if buffer is not None:
        return buffer
    first = state.get("exp_avg")
    if first is None:
        return None
    groups = (group for group in optimizer.param_groups if any(each is parameter for each in group["params"]))
    eps = next(groups, {}).get("eps", 1e-8)
    scale = state["exp_avg_sq"].sqrt() if "exp_avg_sq" in state else state.get("exp_inf")
    return first if scale is None else first / (scale + eps)


class Signals(OptimizerStepObserver):
    """What topology updates know about each weight besides its value.

    Momentum is the optimizer's own where it has one, else an exponential moving average of gradients,
    `0.9 * average + 0.1 * gradient` after every step (the paper's definition: Dettmers & Zettlemoyer 2019,
    section 3.2). A weight that never had a gradient has momentum zero.

    Args:
        parameters: The weights by name.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        super().__init__(parameters)
        self._apply_masks: Callable[[Sequence[str]], None] | None = None
        self._tracks_momentum = self._tracks_gradients = False
        self._averages: dict[str, Tensor] = {}
        # With the version of each, which tells whether it was overwritten since.
        self._gradients: dict[str, tuple[Tensor, int]] = {}

    def follow(
        self,
        optimizer: Optimizer,
        *,
        track_momentum: bool,
        after_step: Callable[[Sequence[str]], None],
        track_gradients: bool = False,
    ) -> None:
        """Follow an optimizer and every other one that steps these weights from now on.

        Args:
            optimizer: Optimizer of some or all of the weights.
            track_momentum: Keep averages of gradients where an optimizer has no momentum.
            after_step: Called after each step with the names of the weights that were stepped.
            track_gradients: Hold on to the gradients of each step until the next one.

        Raises:
            ValueError: If it steps none of the weights, or is attached already.
            TypeError: If it is no optimizer.
        """
        self.attach(optimizer)
        self._apply_masks = after_step
        self._tracks_momentum |= track_momentum
        self._tracks_gradients |= track_gradients

    def is_stepped(self, name: str) -> bool:
        """Tell whether a followed optimizer steps a weight."""
        return bool(self.optimizers_of(name))

    def detach(self) -> None:
        """Stop following; the averages and the number of steps stay."""
        super().detach()
        self._apply_masks = None
        self._tracks_momentum = self._tracks_gradients = False

    def momentum(self, name: str) -> Tensor | None:
        """Return the momentum of a weight, or None where there is none yet or nobody tracks it."""
        parameter, optimizers = self._parameters[name], self.optimizers_of(name)
        for optimizer in optimizers:
            momentum = read_momentum(optimizer, parameter)
            if momentum is not None:
                return momentum
        if name in self._averages:
            return self._average(name)
        # Others have momentum, so steps were taken, but this weight never had a gradient.
        return torch.zeros_like(to_local(parameter)) if any(map(self._has_begun, optimizers)) else None

    def _has_begun(self, optimizer: Optimizer) -> bool:
        return any(
            name in self._averages or has_momentum(optimizer, self._parameters[name])
            for name in self.names_stepped_by(optimizer)
        )

    def untrained(self) -> list[str]:
        """Return the names of the weights that have no momentum although others have it."""
        known = {
            name: name in self._averages
            or any(has_momentum(each, self._parameters[name]) for each in self.optimizers_of(name))
            for name in self._parameters
        }
        return [name for name, has in known.items() if not has] if any(known.values()) else []

    def _after_step(self, optimizer: Optimizer, names: Sequence[str], trained: Sequence[str] | None) -> None:
        if trained is not None:
            self._hold_gradients(names)
            if self._tracks_momentum:
                self._update_averages(optimizer, trained)
        if self._apply_masks is not None:
            self._apply_masks(names)

    def gradient(self, name: str) -> Tensor | None:
        """Return the dense gradient of the last step, or None if it is gone."""
        held, version = self._gradients.get(name, (self._parameters[name].grad, None))
        return None if held is None or version not in (None, held._version) else to_local(held)

    def _hold_gradients(self, names: Sequence[str]) -> None:
        """Keep the gradients of this step, not copies: validation, for one, drops those of the parameters."""
        for name in names:
            gradient = self._parameters[name].grad
            self._gradients.pop(name, None)
            if self._tracks_gradients and gradient is not None:
                self._gradients[name] = (gradient, gradient._version)

    @torch.no_grad()
    def _update_averages(self, optimizer: Optimizer, names: Sequence[str]) -> None:
        for name in names:
            parameter = self._parameters[name]
            if not has_momentum(optimizer, parameter) and parameter.grad is not None:
                self._average(name).lerp_(to_local(parameter.grad), 1 - DECAY)

    def _average(self, name: str) -> Tensor:
        """Return the average of a weight's gradients, zero at first, where the weight is now and in its dtype."""
        home = to_local(self._parameters[name])
        average = self._averages.get(name)
        average = torch.zeros_like(home) if average is None else average.to(home.device, home.dtype)
        self._averages[name] = average
        return average

    def state_dict(self, *, gradients: bool = False) -> dict[str, Any]:
        """Return copies of what neither the model nor the optimizers save, of sharded weights as a whole.

        Args:
            gradients: Whether to add the gradients of the last step, for a recipe that decides by them.
        """
        found = {name: self.gradient(name) for name in self._parameters} if gradients else {}
        return {
            "steps": self.steps,
            "averages": {name: self._whole(name, average) for name, average in self._averages.items()},
            "gradients": {
                name: self._whole(name, gradient) for name, gradient in found.items() if gradient is not None
            },
        }

    def _whole(self, name: str, part: Tensor) -> Tensor:
        return full_tensor(part.detach(), self._parameters[name]).clone()

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise a ValueError if a state is not one of these parameters."""
        if type(state["steps"]) is not int or not 0 <= state["steps"] < 2**63:  # True is an integer too
            raise InvalidValueError(
                expected="a number of optimizer steps >= 0 in the state",
                got=f"{state['steps']!r}",
                cure="load another",
            )
        for kind in ("averages", "gradients"):
            for name, values in state[kind].items():
                parameter = self._parameters.get(name)
                if parameter is None or values.shape != parameter.shape or not values.is_floating_point():
                    raise InvalidValueError(
                        expected=f"saved {kind} of the masked weights, real numbers",
                        got=f"{name!r} of shape {tuple(values.shape)}, {values.dtype}",
                        cure="load the state of a run with the same model",
                    )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a checked state."""
        copies = {
            kind: {name: self._part(name, values.detach()) for name, values in state[kind].items()}
            for kind in ("averages", "gradients")
        }
        self._averages = copies["averages"]
        self._gradients = {name: (gradient, gradient._version) for name, gradient in copies["gradients"].items()}
        self.steps = int(state["steps"])

    def _part(self, name: str, whole: Tensor) -> Tensor:
        home = to_local(self._parameters[name])
        return local_part(whole, self._parameters[name]).clone().to(home.device, home.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it follows no optimizer, and its tensors have histories of their own."""
        gradients = {name: gradient for name in self._gradients if (gradient := self.gradient(name)) is not None}
        return {**super().__getstate__(), "_apply_masks": None, "_gradients": gradients}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._gradients = {name: (gradient, gradient._version) for name, gradient in state["_gradients"].items()}
