"""A look at the first forward passes in training of layers whose kernels may be computed from their masked weights."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_sparse.selection.kernel_trace import KernelTrace, density, fills_zeros
from lightning_sparse.selection.patterns import Patterns
from lightning_sparse.selection.weight import Weight
from lightning_sparse.selection.weights import undecided_weights
from lightning_sparse.validation.errors import InvalidValueError


class KernelWatch:
    """Looks at masked layers in use of which a copy didn't tell what they compute with.

    Nothing is left of it afterwards. Compiled layers are not looked at: their hooks would be compiled, too.

    Args:
        model: Any module whose weights are masked.
        masked: Names of the weights that have a mask.
        include: Patterns that chose the weights.
        exclude: Patterns of weights that were left out.
    """

    def __init__(
        self, model: nn.Module, masked: Collection[str], include: Patterns | None, exclude: Patterns | None
    ) -> None:
        undecided = undecided_weights(model, include, exclude)
        compiled = compiled_modules(model) if undecided else set()
        self._weights = [
            weight for name, weight in undecided.items() if name in masked and id(weight.module) not in compiled
        ]
        self._looks: list[_Look] = []
        self._handles: list[RemovableHandle] = []

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: nothing, as it looks at nothing."""
        return {"_weights": [], "_looks": [], "_handles": []}

    def look(self) -> bool:
        """Begin to look, if there is a reason to; end it when called again. Return whether it looks from here on.

        A layer that fills the zeros of its weight then raises a ValueError in its forward pass, before any update.
        """
        begins = not self._handles
        self.stop()
        weights, self._weights = self._weights, []
        for weight in weights if begins else ():
            self._looks.append(look := _Look(weight))
            self._handles.append(weight.module.register_forward_pre_hook(look.before))
            self._handles.append(weight.module.register_forward_hook(look.after, prepend=True, always_call=True))
        return bool(self._handles)

    def stop(self) -> None:
        """Remove the hooks, and end what an interrupt has left open."""
        for handle in self._handles:
            handle.remove()
        for look in self._looks:
            look.end()
        self._looks, self._handles = [], []


def compiled_modules(model: nn.Module) -> set[int]:
    """Return the ids of the modules inside of what `torch.compile` has compiled, or Lightning with it."""
    roots = (
        module
        for module in model.modules()
        if type(module).__name__ == "OptimizedModule"
        or getattr(module, "_compiled_call_impl", None) is not None
        or getattr(module, "_compiler_ctx", None)
    )
    return {id(inner) for root in roots for inner in root.modules()}


class _Look:
    """Hooks around the forward passes of one layer.

    Args:
        weight: The layer's masked weight.
    """

    def __init__(self, weight: Weight) -> None:
        self._weight, self._traces = weight, list[KernelTrace]()
        self._is_copy = False

    def __deepcopy__(self, memo: dict[int, Any]) -> _Look:
        """Return hooks that do nothing: copies of a model, for measurements, are not what is trained."""
        inert = copy.copy(self)
        inert._is_copy, inert._traces = True, []
        return inert

    def before(self, module: nn.Module, inputs: Any) -> None:
        """Begin to record kernels, in training only."""
        # Looked up now: where weights are split over processes, the layer computes with a whole one.
        parameter = module._parameters[self._weight.places[0].local]
        if self._is_copy or parameter is None or not (module.training and torch.is_grad_enabled()):
            return
        if parameter.is_cuda and torch.cuda.is_current_stream_capturing():  # nothing can be read in between
            return
        trace = KernelTrace(parameter, module.parameters(), has_gradient=False)
        trace.__enter__()  # type: ignore[no-untyped-call]  # PyTorch's
        self._traces.append(trace)

    def after(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        """End it, and raise if the kernels have fewer zeros than the weight, unless the pass itself has failed."""
        trace = self.end()
        if trace is None or outputs is None:
            return
        parameter = module._parameters[self._weight.places[0].local]
        if parameter is None or not fills_zeros(trace.densities, stored := density(parameter)):
            return
        name = self._weight.name
        raise InvalidValueError(
            expected=f"a layer that computes with {name!r} as it is stored and masked",
            got=(
                f"a {type(module).__name__} that computes with another kernel, of which {min(trace.densities):.0%} are "
                f"not zero, though only {stored:.0%} of the weight are"
            ),
            cure=(
                f"leave it dense with exclude={name!r}, or mask what is stored all the same with include="
                f"['default', {name!r}]"
            ),
        )

    def end(self) -> KernelTrace | None:
        """End the recording of the innermost pass and return it, if there is one."""
        trace = self._traces.pop() if self._traces else None
        if trace is not None:
            trace.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # PyTorch's
        return trace
