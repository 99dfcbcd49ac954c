"""What runs in place of a module's forward pass: its graph, with chains for parts of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lightning_sparse.execution.chains import Chain
from lightning_sparse.execution.programs.assembly import UnfitError, WeightOf, assemble
from lightning_sparse.execution.programs.runs import Run, find_runs
from lightning_sparse.execution.programs.tracing import Traced, UntraceableError, trace

Original = Callable[..., Any]


class Program:
    """Runs the forward pass of a module by chains where it can, else as it is; for `replace_forward`.

    The graph is made at the first call with some number of tensors, once for each mode, and again when something that
    it depends on has changed. Calls with other arguments, tensors of other types or devices, under autocast, in a
    compiled or traced model, and calls of copies of the module, are those of the original.

    Args:
        weight_of: Function that returns the masked weight of a parameter.
        is_masked: Whether a module has a masked weight of its own.

    Attributes:
        reason: Why the last call was not traced, for messages; None if it was.
    """

    # For whoever looks into modules: a graph of this one's own forward pass may stand for it.
    computes_the_same = True

    def __init__(self, weight_of: WeightOf, is_masked: Callable[[nn.Module], bool]) -> None:
        self._weight_of, self._is_masked = weight_of, is_masked
        self._module: nn.Module | None = None
        self._compiled: dict[tuple[int, bool], _Compiled | None] = {}
        self.reason: str | None = None

    def __call__(self, module: nn.Module, original: Original, /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of the forward pass."""
        compiled = self._compiled_for(module, args) if not kwargs and can_run(args) else None
        return original(module, *args, **kwargs) if compiled is None else compiled.run(*args)

    def __deepcopy__(self, memo: object) -> Program:
        return _Plain()

    def __reduce__(self) -> Any:
        """Return what a pickle needs: a copy runs the original, as it has other parameters and no masks."""
        return _Plain, ()

    def _compiled_for(self, module: nn.Module, args: Sequence[Any]) -> _Compiled | None:
        if self._module is None:
            self._module = module
        if module is not self._module:
            return None
        key = len(args), module.training
        if key in self._compiled and ((known := self._compiled[key]) is None or known.traced.holds()):
            return known
        try:
            traced = trace(module, len(args), self._looks_into)
            self._compiled[key] = _Compiled(traced, self._weight_of, self._is_masked)
            self.reason = None
        except UntraceableError as error:
            self._compiled[key], self.reason = None, str(error)
        return self._compiled[key]

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


def can_run(args: Sequence[Any]) -> bool:
    """Tell whether arguments are tensors that kernels compute with, in an ordinary call."""
    return (
        bool(args)
        and all(type(each) is Tensor and each.dtype is torch.float32 and each.device.type == "cpu" for each in args)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None  # of torch.jit
        and not _looks_at_all_modules()
        and not torch._C._functorch.peek_interpreter_stack()
    )


# Hooks on all modules; PyTorch has no typed way to ask for them.
_looks_at_all_modules: Callable[[], bool] = vars(torch.nn.modules.module)["_has_any_global_hook"]


@dataclass
class _Part:
    """A run in a graph: a chain for each size of its inputs, or the graph's own nodes."""

    run: Run
    original: fx.GraphModule
    weight_of: WeightOf

    def __post_init__(self) -> None:
        self._chains: dict[tuple[torch.Size, ...], Chain | None] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        chain = self._chain(inputs) if can_run(inputs) else None
        return self.original(*inputs) if chain is None else chain(*inputs)

    def _chain(self, inputs: Sequence[Tensor]) -> Chain | None:
        shapes = tuple(each.shape for each in inputs)
        # Chains take any batch, but all inputs must have the same.
        key = tuple(shape[1:] for shape in shapes)
        if len({len(each) for each in inputs}) != 1:
            return None
        if key not in self._chains:
            try:
                self._chains[key] = assemble(self.run, shapes, self.weight_of)
            except UnfitError:
                self._chains[key] = None
        return self._chains[key]


class _Compiled:
    """A traced forward pass with its chains.

    Args:
        traced: The graph.
        weight_of: Function that returns the masked weight of a parameter.
        is_masked: Whether a module has a masked weight.
    """

    def __init__(self, traced: Traced, weight_of: WeightOf, is_masked: Callable[[nn.Module], bool]) -> None:
        self.traced = traced
        graph = traced.graph
        # All of them before the graph changes.
        self.parts = [_Part(run, _nodes_alone(graph, run), weight_of) for run in find_runs(graph, is_masked)]
        results: dict[fx.Node, fx.Node] = {}
        for index, part in enumerate(self.parts):
            results[part.run.output] = _insert(graph, part, f"part_{index}", results)
        done = {node for part in self.parts for node in part.run.operations}
        for node in reversed(graph.graph.nodes):
            if node in done:
                graph.graph.erase_node(node)
        graph.recompile()
        self.run = graph.forward


def _insert(graph: fx.GraphModule, part: _Part, name: str, results: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """Let a graph call a part, and use its result.

    Args:
        graph: The graph.
        part: The part.
        name: Name of the part in the graph.
        results: Nodes of earlier parts, by the nodes whose values they have.
    """
    run, order = part.run, {node: index for index, node in enumerate(graph.graph.nodes)}
    graph.add_module(name, _PartModule(part))
    with graph.graph.inserting_after(max(run.operations, key=order.__getitem__)):
        node = graph.graph.call_module(name, tuple(results.get(each, each) for each in run.inputs))
    for user in [each for each in run.output.users if each not in run.operations]:
        user.replace_input_with(run.output, node)
    return node


class _PartModule(nn.Module):
    """A part as a graph calls it."""

    def __init__(self, part: _Part) -> None:
        super().__init__()
        self._part = [part]

    def forward(self, *inputs: Tensor) -> Any:
        return self._part[0](*inputs)


def _nodes_alone(graph: fx.GraphModule, run: Run) -> fx.GraphModule:
    """Return a graph of a run's own nodes, for inputs that its chain can't take."""
    alone = fx.Graph()
    copies = {node: alone.placeholder(f"input_{index}") for index, node in enumerate(run.inputs)}
    for node in run.operations:
        copies[node] = alone.node_copy(node, lambda each: copies[each])
    alone.output(copies[run.output])
    return fx.GraphModule(graph, alone)
