"""What runs in place of a module's forward pass: its graph, with chains for parts of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lightning_sparse.execution.forward_replacement import replaced_forward
from lightning_sparse.execution.programs.assembly import WeightOf
from lightning_sparse.execution.programs.choices import AllOfThem, Choice
from lightning_sparse.execution.programs.compiled import (
    Compiled,
    Making,
    Part,
    can_run,
    compiled_graph,
    compiled_layer,
)
from lightning_sparse.execution.programs.tracing import UntraceableError, trace

Original = Callable[..., Any]


class Program:
    """Runs the forward pass of a module by chains where it can, else as it is; for `replace_forward`.

    The graph is made at the first call with some number of tensors, once for each mode, and again when something that
    it depends on has changed. Calls with other arguments, tensors of other types or devices, under autocast, in a
    compiled or traced model, and calls of copies of the module, are those of the original.

    Args:
        weight_of: Function that returns the masked weight of a parameter.
        is_masked: Whether a module has a masked weight of its own.
        choice: The choice of parts that run by chains; default: all that can.
        name: Name of the module in its model.

    Attributes:
        is_dense: Whether all runs as it is while gradients are computed: those of inactive weights are needed.
        reason: Why the last call was not traced, for messages; None if it was.
    """

    # For whoever looks into modules: a graph of this one's own forward pass may stand for it.
    computes_the_same = True

    def __init__(
        self,
        weight_of: WeightOf,
        is_masked: Callable[[nn.Module], bool],
        choice: Choice | None = None,
        name: str = "",
    ) -> None:
        self._weight_of, self._is_masked, self._choice, self._name = weight_of, is_masked, choice or AllOfThem(), name
        self._module: nn.Module | None = None
        self._compiled: dict[tuple[int, bool, bool], Compiled | None] = {}
        self.is_dense = False
        self.reason: str | None = None

    def __call__(self, module: nn.Module, original: Original, /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of the forward pass."""
        runs = not kwargs and not (self.is_dense and torch.is_grad_enabled()) and can_run(args)
        compiled = self._compiled_for(module, args) if runs else None
        return original(module, *args, **kwargs) if compiled is None else compiled.run(*args)

    def __deepcopy__(self, memo: object) -> Program:
        return _Plain()

    def __reduce__(self) -> Any:
        """Return what a pickle needs: a copy runs the original, as it has other parameters and no masks."""
        return _Plain, ()

    @property
    def parts(self) -> list[Part]:
        """Parts of all graphs, those of different modes one after the other."""
        return [part for compiled in self._compiled.values() if compiled is not None for part in compiled.parts]

    def _compiled_for(self, module: nn.Module, args: Sequence[Any]) -> Compiled | None:
        if self._module is None:
            self._module = module
        if module is not self._module:
            return None
        key = len(args), module.training, torch.is_grad_enabled()
        if key in self._compiled and ((known := self._compiled[key]) is None or known.holds()):
            return known
        made, self.reason = None, None
        try:
            made = self._compile(module, len(args))
        except UntraceableError as error:
            self.reason = str(error)
        self._compiled[key] = made
        return made

    def _compile(self, module: nn.Module, arguments: int) -> Compiled:
        handle = replaced_forward(module)
        if handle is not None and not handle.keeps_class:
            raise UntraceableError(f"another package has replaced the forward of {type(module).__name__}")
        making = Making(self._weight_of, self._choice, self._name, module.training)
        if self._is_masked(module):
            return compiled_layer(module, making)
        return compiled_graph(trace(module, arguments, self._looks_into), self._is_masked, making)

    def _looks_into(self, module: nn.Module) -> bool:
        """Tell whether a submodule has masked weights further down; layers themselves are calls."""
        return not self._is_masked(module) and any(self._is_masked(each) for each in module.modules())


class _Plain(Program):
    """The program of a copy, which runs the original."""

    def __init__(self) -> None:
        super().__init__(no_weight, lambda module: False)

    def __call__(self, module: nn.Module, original: Original, /, *args: Any, **kwargs: Any) -> Any:
        return original(module, *args, **kwargs)


def no_weight(parameter: nn.Parameter) -> Any:
    """Raise, as there are no masks."""
    raise LookupError("a copy has no masks")
