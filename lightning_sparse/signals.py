"""Momentum and gradients of the masked weights, from the optimizers that step them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_sparse.sharded import gather, local, take_part

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
        key: local(value) for key, value in optimizer.state.get(parameter, {}).items() if isinstance(value, Tensor)
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


def _has_skipped(optimizer: Optimizer) -> bool:
    """Tell whether a fused optimizer left the weights alone in this step, as a gradient scaler told it to."""
    # Only while such an optimizer steps, and for what else the scaler would have asked the device before the step.
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


@dataclass
class _Attachment:
    optimizer: Optimizer
    names: list[str]
    # Weights whose momentum the optimizer was not yet seen to keep, and for which an average is kept instead.
    averaged: set[str]
    handles: tuple[RemovableHandle, RemovableHandle]
    steps: int
    tracks_momentum: bool
    tracks_gradients: bool
    stepped: bool = False
    # A step has begun and was not yet counted.
    stepping: bool = False


class Signals:
    """What topology updates know about each weight besides its value.

    Momentum is the optimizer's own where it has one, else an exponential moving average of gradients,
    `0.9 * average + 0.1 * gradient` after every step (the paper's definition: Dettmers & Zettlemoyer 2019,
    section 3.2). A weight that never had a gradient has momentum zero.

    Args:
        parameters: The weights by name.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = dict(parameters)
        self._attachments: list[_Attachment] = []
        self._averages: dict[str, Tensor] = {}
        # With the version of each, which tells whether it was overwritten since.
        self._gradients: dict[str, tuple[Tensor, int]] = {}
        self._steps_before = 0

    @property
    def steps(self) -> int:
        """Optimizer steps taken; with several optimizers, those of the busiest one."""
        return max((attachment.steps for attachment in self._attachments), default=self._steps_before)

    def names_stepped_by(self, optimizer: Optimizer) -> list[str]:
        """Return the names of the weights that an optimizer steps."""
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(f"Expected an optimizer; got {optimizer!r}. Cure: ask for the optimizer itself.")
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [name for name, parameter in self._parameters.items() if id(parameter) in stepped]

    def attach(
        self,
        optimizer: Optimizer,
        *,
        track_momentum: bool,
        after_step: Callable[[Sequence[str]], None],
        track_gradients: bool = False,
    ) -> None:
        """Follow an optimizer; after each of its steps call `after_step` with the names of the weights it steps.

        Raises:
            ValueError: If it steps none of the weights, or is attached already.
        """
        if any(attachment.optimizer is optimizer for attachment in self._attachments):
            raise ValueError("Expected each optimizer once; got one that is attached already. Cure: detach first.")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"Expected a torch.optim.Optimizer; got {optimizer!r}. Cure: attach the optimizer itself.")
        names = self.names_stepped_by(optimizer)
        if not names:
            raise ValueError(
                f"Expected an optimizer of the masked weights; got a {type(optimizer).__name__} that steps none of "
                "them. Cure: build it from the parameters of the same model."
            )

        def begin(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            attachment.stepping = True

        def end(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # A step that calls the step of its base class ends twice.
            if attachment.stepping and not _has_skipped(optimizer):
                attachment.steps += 1
                attachment.stepped = True
                self._update_averages(attachment)
                self._hold_gradients(attachment)
            attachment.stepping = False
            after_step(attachment.names)

        attachment = _Attachment(
            optimizer,
            names,
            averaged=set(names) if track_momentum else set(),
            handles=(optimizer.register_step_pre_hook(begin), optimizer.register_step_post_hook(end)),
            steps=self.steps,
            tracks_momentum=track_momentum,
            tracks_gradients=track_gradients,
        )
        self._attachments.append(attachment)

    def is_stepped(self, name: str) -> bool:
        """Tell whether an attached optimizer steps a weight."""
        return any(name in attachment.names for attachment in self._attachments)

    def detach(self) -> None:
        """Stop following; the averages and the number of steps stay."""
        self._steps_before = self.steps
        for attachment in self._attachments:
            for handle in attachment.handles:
                handle.remove()
        self._attachments.clear()

    def momentum(self, name: str) -> Tensor | None:
        """Return the momentum of a weight, or None where there is none yet or nobody tracks it."""
        parameter = self._parameters[name]
        followed = [attachment for attachment in self._attachments if name in attachment.names]
        for attachment in followed:
            if has_momentum(attachment.optimizer, parameter):
                return read_momentum(attachment.optimizer, parameter)
        if name in self._averages:
            return self._averages[name]
        # Steps were taken with momentum, but this weight never had a gradient.
        return torch.zeros_like(local(parameter)) if any(map(self._has_begun, followed)) else None

    def _has_begun(self, attachment: _Attachment) -> bool:
        if attachment.tracks_momentum and attachment.stepped:
            return True
        return any(
            name in self._averages or has_momentum(attachment.optimizer, self._parameters[name])
            for name in attachment.names
        )

    def gradient(self, name: str) -> Tensor | None:
        """Return the dense gradient of the last step, or None if it is gone."""
        held, version = self._gradients.get(name, (self._parameters[name].grad, None))
        return None if held is None or version not in (None, held._version) else local(held)

    def _hold_gradients(self, attachment: _Attachment) -> None:
        """Keep the gradients of this step, not copies: validation, for one, drops those of the parameters."""
        for name in attachment.names:
            gradient = self._parameters[name].grad
            self._gradients.pop(name, None)
            if attachment.tracks_gradients and gradient is not None:
                self._gradients[name] = (gradient, gradient._version)

    @torch.no_grad()
    def _update_averages(self, attachment: _Attachment) -> None:
        for name in sorted(attachment.averaged):
            parameter = self._parameters[name]
            if has_momentum(attachment.optimizer, parameter):
                attachment.averaged.discard(name)
            elif parameter.grad is not None:
                average = self._averages.setdefault(name, torch.zeros_like(local(parameter)))
                average.lerp_(local(parameter.grad), 1 - DECAY)

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
        return gather(part.detach(), self._parameters[name]).clone()

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise a ValueError if a state is not one of these parameters."""
        if type(state["steps"]) is not int or not 0 <= state["steps"] < 2**63:  # True is an integer too
            raise ValueError(
                f"Expected a number of optimizer steps >= 0 in the state; got {state['steps']!r}. Cure: load another."
            )
        for kind in ("averages", "gradients"):
            for name, values in state[kind].items():
                parameter = self._parameters.get(name)
                if parameter is None or values.shape != parameter.shape or not values.is_floating_point():
                    raise ValueError(
                        f"Expected saved {kind} of the masked weights, real numbers; got {name!r} of shape "
                        f"{tuple(values.shape)}, {values.dtype}. Cure: load the state of a run with the same model."
                    )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a checked state."""
        copies = {
            kind: {name: self._part(name, values.detach()) for name, values in state[kind].items()}
            for kind in ("averages", "gradients")
        }
        self._averages = copies["averages"]
        self._gradients = {name: (gradient, gradient._version) for name, gradient in copies["gradients"].items()}
        self._steps_before = int(state["steps"])
        for attachment in self._attachments:
            attachment.steps = self._steps_before

    def _part(self, name: str, whole: Tensor) -> Tensor:
        home = local(self._parameters[name])
        return take_part(whole, self._parameters[name]).clone().to(home.device, home.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it follows no optimizer, and its tensors have histories of their own."""
        gradients = {name: gradient for name in self._gradients if (gradient := self.gradient(name)) is not None}
        return {**self.__dict__, "_attachments": [], "_steps_before": self.steps, "_gradients": gradients}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._gradients = {name: (gradient, gradient._version) for name, gradient in state["_gradients"].items()}
