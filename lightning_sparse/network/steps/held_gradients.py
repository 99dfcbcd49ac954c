"""Gradients of the last step, kept until the next one: references, and copies where a backward pass adds to them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.utils.hooks import RemovableHandle


class HeldGradients:
    """Gradients of steps by name, as they were.

    A copy each would take as much memory as the weights, so they are held as they are. A later backward pass may add to
    one, in place, that nobody has dropped: that of the second optimizer of a GAN adds to the gradients of the first. A
    hook on the parameter copies it right before.

    Args:
        parameters: The observed parameters by name.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = parameters
        # With the version of each, which tells whether it was overwritten since.
        self._held: dict[str, tuple[Tensor, int]] = {}
        self._hooks: dict[str, RemovableHandle] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def hold(self, name: str, gradient: Tensor) -> None:
        """Hold a gradient, in the place of an earlier one."""
        self._held[name] = (gradient, gradient._version)
        parameter = self._parameters[name]
        if gradient is parameter.grad and name not in self._hooks:
            # The hook doesn't keep this alive, which a module that outlives the run would.
            hook = partial(_before_backward, weakref.ref(self), name)
            self._hooks[name] = parameter.register_hook(hook)  # type: ignore[no-untyped-call]  # untyped in PyTorch

    def drop(self, name: str) -> None:
        """Let go of a gradient, if there is one."""
        self._held.pop(name, None)

    def get(self, name: str) -> Tensor | None:
        """Return a held gradient; without one, that of the parameter; None where it is gone or was overwritten."""
        held, version = self._held.get(name, (self._parameters[name].grad, None))
        return None if held is None or version not in (None, held._version) else held

    def save(self, name: str) -> None:
        """Copy a gradient that a backward pass is about to add to."""
        held, version = self._held.get(name, (None, 0))
        if held is not None and held is self._parameters[name].grad and held._version == version:
            self.hold(name, held.detach().clone())

    def release(self) -> None:
        """Take the hooks off the parameters; what is held stays."""
        while self._hooks:
            self._hooks.popitem()[1].remove()

    def load(self, gradients: Mapping[str, Tensor]) -> None:
        """Hold these gradients instead of all others."""
        self._held = {name: (gradient, gradient._version) for name, gradient in gradients.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it has no hooks, and its tensors have histories of their own."""
        held = {name: gradient for name in self._held if (gradient := self.get(name)) is not None}
        return {"_parameters": self._parameters, "_held": held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._parameters, self._hooks = state["_parameters"], {}
        self.load(state["_held"])


def _before_backward(held: weakref.ref[HeldGradients], name: str, _: Tensor) -> None:
    gradients = held()
    if gradients is not None:
        gradients.save(name)
