"""Graphs in which chains do what they can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from lightning_sparse.execution.chains import Chain
from lightning_sparse.execution.programs.assembly import UnfitError, WeightOf, assemble
from lightning_sparse.execution.programs.choices import Choice, Parts
from lightning_sparse.execution.programs.operations import Operation, kind_of
from lightning_sparse.execution.programs.runs import Layout, Run, find_runs
from lightning_sparse.execution.programs.surroundings import Settings, Surroundings
from lightning_sparse.execution.programs.tracing import Traced, UntraceableError

# Sizes of inputs, batches aside, that a part remembers chains for.
MOST_CHAINS = 8
# What intercepts tensors that are kept for a backward pass, as checkpointing does; PyTorch has no public way to ask.
_saving_hooks: Callable[[bool], Any] = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", lambda ignores_tracing: None
)
# Hooks on all modules, which every version of PyTorch keeps there.
_OF_ALL_MODULES: list[Sized] = [
    vars(torch.nn.modules.module)[name]
    for name in ("_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_hooks")
]


def can_run(args: Sequence[Any]) -> bool:
    """Tell whether arguments are tensors that kernels compute with, in an ordinary call."""
    return (
        bool(args)
        and all(type(each) is Tensor and each.dtype is torch.float32 and each.device.type == "cpu" for each in args)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None  # of torch.jit
        and not any(map(len, _OF_ALL_MODULES))
        # It would get what a chain keeps, which it can't make again, and see what a timing keeps.
        and _saving_hooks(True) is None
        and not torch._C._functorch.peek_interpreter_stack()
    )


@dataclass(frozen=True)
class Making:
    """What parts are made with.

    Attributes:
        weight_of: Function that returns the masked weight of a parameter.
        choice: The choice of parts that run by chains.
        name: Name of the module.
        in_training: Mode of the module.
    """

    weight_of: WeightOf
    choice: Choice
    name: str
    in_training: bool


class Part:
    """A run in a graph: a chain for each size of its inputs, or as PyTorch runs it.

    Args:
        run: The run.
        original: Function of its inputs that runs it as PyTorch does.
        name: Name of the part.
        making: The weights, the choice and the name to make it with.

    Attributes:
        run: The run.
        name: Name of the part.
        modules: Modules of the run.
        in_training: Whether it belongs to the forward pass in training.
        reason: Why the last call had no chain, for messages; None if it had one.
    """

    def __init__(self, run: Run, original: Callable[..., Any], name: str, making: Making) -> None:
        self.run, self._original, self._making = run, original, making
        self.in_training = making.in_training
        self.name = name if self.in_training else f"{name} in evaluation"
        self.modules = [each.module for each in run.operations.values() if each.module is not None]
        self._parts = Parts.of(self.modules)
        self._chains: dict[tuple[torch.Size, ...], Chain | None] = {}
        self.reason: str | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        """Return the result."""
        chain = self._chain(inputs) if can_run(inputs) else None
        if chain is None:
            return self._original(*inputs)
        sizes = ", ".join("x".join(map(str, each.shape[1:])) for each in inputs)
        learns = "" if torch.is_grad_enabled() else ", without gradients"
        name = f"{self.name} [{sizes}{learns}]"
        is_sparse = self._making.choice.takes(name, self._original, chain, inputs, self._parts)
        return chain(*inputs) if is_sparse else self._original(*inputs)

    def _chain(self, inputs: Sequence[Tensor]) -> Chain | None:
        shapes = tuple(each.shape for each in inputs)
        # Chains take any batch, but all inputs must have the same.
        key = tuple(shape[1:] for shape in shapes)
        if len({shape[:1] for shape in shapes}) != 1 or not all(map(prod, shapes)):
            return None
        if key not in self._chains:
            if len(self._chains) == MOST_CHAINS:
                del self._chains[next(iter(self._chains))]
            self._chains[key], self.reason = None, None
            try:
                self._chains[key] = assemble(self.run, shapes, self._making.weight_of)
            except UnfitError as error:
                self.reason = str(error)
        return self._chains[key]

    @property
    def chains(self) -> list[Chain]:
        """Its chains, those of different sizes of inputs."""
        return [chain for chain in self._chains.values() if chain is not None]

    @property
    def has_chain(self) -> bool:
        """Whether there is a chain for some inputs that came."""
        return bool(self.chains)


@dataclass(frozen=True)
class Compiled:
    """A forward pass with chains in it.

    Attributes:
        parts: The parts that may run by chains.
        run: Function of the inputs that computes it.
        holds: Function that tells whether it still stands for the module's forward pass.
    """

    parts: list[Part]
    run: Callable[..., Any]
    holds: Callable[[], bool]


def compiled_layer(layer: nn.Module, making: Making) -> Compiled:
    """Return the forward pass of a single layer, whose hooks are called by whoever calls the layer.

    Raises:
        UntraceableError: If there is no kernel for it.
    """
    kind = kind_of(layer)
    if kind not in ("linear", "convolution"):
        raise UntraceableError(f"there is no kernel for {type(layer).__name__}")
    graph = fx.Graph()
    inputs = graph.placeholder("inputs")
    node = graph.call_module("layer", (inputs,))
    layout: Layout = "features" if kind == "linear" else "maps"
    run = Run({node: Operation(kind, (inputs,), layer)}, {node: layout}, {inputs: layout}, node, {})
    part = Part(run, partial(type(layer).forward, layer), making.name, making)
    surroundings, settings = Surroundings([layer]), Settings([layer])
    run_part = partial(_on_rows, part) if kind == "linear" else part
    return Compiled([part], run_part, lambda: surroundings.hold() and settings.hold())


def _on_rows(part: Part, inputs: Tensor) -> Any:
    """Run a linear layer on inputs with any number of dimensions before the last."""
    if inputs.dim() <= 2:
        return part(inputs)
    return part(inputs.flatten(0, -2)).unflatten(0, inputs.shape[:-1])


def compiled_graph(traced: Traced, is_masked: Callable[[nn.Module], bool], making: Making) -> Compiled:
    """Return a traced forward pass with its chains.

    Args:
        traced: The graph, which is changed.
        is_masked: Whether a module has a masked weight.
        making: The weights, the choice and the name to make its parts with.
    """
    graph = traced.graph
    # All of them before the graph changes.
    parts = [
        Part(run, _nodes_alone(graph, run), f"{making.name}#{index}", making)
        for index, run in enumerate(find_runs(graph, is_masked))
    ]
    results: dict[fx.Node, fx.Node] = {}
    for index, part in enumerate(parts):
        results[part.run.output] = _insert(graph, part, f"part_{index}", results)
    done = {node for part in parts for node in part.run.operations}
    for node in reversed(graph.graph.nodes):
        if node in done:
            graph.graph.erase_node(node)
    graph.recompile()
    settings = Settings(module for part in parts for module in part.modules)
    return Compiled(parts, graph.forward, lambda: traced.holds() and settings.hold())


def _insert(graph: fx.GraphModule, part: Part, name: str, results: Mapping[fx.Node, fx.Node]) -> fx.Node:
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

    def __init__(self, part: Part) -> None:
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
