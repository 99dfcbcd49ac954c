"""The graph of a module's forward pass, and what it took for granted.

`torch.fx` runs the forward pass once with symbols instead of tensors. Python decides on the way: by attributes (`if
self.is_wide`), by numbers (`x * self.scale`), by chance. The graph has these decisions in it. So attributes that were
read are guards, and a forward pass that drew random numbers, made tensors or set attributes is refused.
"""

from __future__ import annotations

import inspect
import operator
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from lightning_sparse.execution.programs.modes import entered_modes
from lightning_sparse.execution.programs.surroundings import Surroundings, has_hooks, runs_its_class

# Attributes of every module, which PyTorch manages.
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"forward"}
# How the tracer names tensors that it finds no name for.
_CONSTANT = "_tensor_constant"
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Size)


class UntraceableError(Exception):
    """A forward pass has no graph that could stand for it; the message says why."""


@dataclass(frozen=True)
class Guard:
    """An attribute that a graph depends on.

    Attributes:
        module: The module that has it.
        name: Its name.
        value: Its value when the graph was made.
    """

    module: nn.Module
    name: str
    value: Any

    def holds(self) -> bool:
        """Tell whether the attribute is what it was."""
        present = getattr(self.module, self.name, self)
        return present is self.value or (type(present) is type(self.value) and bool(present == self.value))


@dataclass(frozen=True)
class Traced:
    """The graph of a forward pass.

    Attributes:
        graph: Module that runs it; it shares all submodules, parameters and buffers with the one that was traced.
        guards: Attributes that it depends on.
        structure: Modules that were looked into, with their training mode and their submodules.
        surroundings: Hooks, forward passes and parameters of all modules of the graph but the one that was traced.
    """

    graph: fx.GraphModule
    guards: tuple[Guard, ...]
    structure: tuple[tuple[nn.Module, bool, tuple[nn.Module | None, ...]], ...]
    surroundings: Surroundings

    def holds(self) -> bool:
        """Tell whether the forward pass is still the one that was traced, as far as attributes and modules tell."""
        return (
            all(guard.holds() for guard in self.guards)
            and all(
                module.training is training and all(map(is_, module._modules.values(), children))
                for module, training, children in self.structure
            )
            and self.surroundings.hold()
        )


def trace(module: nn.Module, arguments: int, looks_into: Callable[[nn.Module], bool]) -> Traced:
    """Return the graph of a module's own forward pass, in its present mode.

    Args:
        module: The module.
        arguments: Number of its arguments, which are tensors; all others have their defaults.
        looks_into: Whether the forward pass of a submodule is a part of the graph, instead of a call.

    Raises:
        UntraceableError: If there is none, or it would be another one the next time.
    """
    # Asked before, as parameters are symbols while a graph is made.
    inner = {id(each) for each in module.modules() if looks_into(each) and is_transparent(each)}
    tracer = _Tracer(inner)
    with _recorded() as read, _without_changes() as written, entered_modes() as modes, _without_chance():
        try:
            graph = tracer.trace(module, concrete_args=_defaults(module, arguments))
        except UntraceableError:
            raise
        except Exception as error:  # whatever the user's code raises when it is given symbols
            raise UntraceableError(f"{type(module).__name__} can't be traced: {error}") from error
    if modes:
        raise UntraceableError(f"{type(module).__name__} enters {modes[0]} in its forward pass")
    if written:  # though the user's code has caught the error
        raise UntraceableError(written[0])
    if constants := [node.target for node in graph.nodes if str(node.target).startswith(_CONSTANT)]:
        raise UntraceableError(f"{type(module).__name__} makes tensors in its forward pass ({len(constants)})")
    entered = {id(each): each for each in tracer.entered if each is not module}
    structure = [(each, each.training, tuple(each._modules.values())) for each in (module, *entered.values())]
    guards = [_guard(each, name) for each, name in read if each is module or id(each) in entered]
    called = {id(each): each for each in map(module.get_submodule, _targets(graph))}
    surroundings = Surroundings((entered | called).values())
    return Traced(fx.GraphModule(module, graph), tuple(guards), tuple(structure), surroundings)


def is_transparent(module: nn.Module) -> bool:
    """Tell whether nothing looks at the calls of a module, or computes something else in them."""
    return not has_hooks(module) and runs_its_class(module)


def _targets(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


class _Tracer(fx.Tracer):
    # Else what is done to a buffer would be done while the graph is made, and never again.
    proxy_buffer_attributes = True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def __init__(self, inner: set[int]) -> None:
        super().__init__()
        self._inner = inner
        self.entered: list[nn.Module] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) not in self._inner

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if not self.is_leaf_module(m, ""):
            self.entered.append(m)
        return super().call_module(m, forward, args, kwargs)


class _Value(fx.Proxy):
    """A symbol for a tensor, whose `+=` is one: `torch.fx` makes a sum of it, which other names of the tensor miss."""


def _in_place(name: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    function = getattr(operator, name)
    return lambda value, other: value.tracer.create_proxy("call_function", function, (value, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "imatmul"):
    setattr(_Value, f"__{_name}__", _in_place(_name))


def _defaults(module: nn.Module, arguments: int) -> dict[str, Any]:
    """Return the arguments that aren't given, with their defaults."""
    forward = type(module).forward
    try:
        parameters = [*inspect.signature(forward).parameters.values()][1:]
    except (TypeError, ValueError) as error:
        raise UntraceableError(f"the arguments of {type(module).__name__} are unknown") from error
    if any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters):
        raise UntraceableError(f"{type(module).__name__} takes any number of arguments")
    rest = parameters[arguments:]
    if len(parameters) < arguments or any(each.default is each.empty for each in rest):
        raise UntraceableError(f"{type(module).__name__} takes other arguments than {arguments} tensors")
    return {each.name: each.default for each in rest}


@contextmanager
def _recorded() -> Iterator[list[tuple[nn.Module, str]]]:
    """Give the attributes of modules that are read meanwhile, but for those that every module has."""
    read: list[tuple[nn.Module, str]] = []
    own = threading.get_ident()

    def look(module: nn.Module, name: str) -> Any:
        value = object.__getattribute__(module, name)
        if name not in _OF_EVERY_MODULE and threading.get_ident() == own:
            is_of_module = name in object.__getattribute__(module, "__dict__")
            if is_of_module or (not name.startswith("_") and isinstance(value, _PLAIN)):
                read.append((module, name))
        return value

    nn.Module.__getattribute__ = look  # type: ignore[method-assign, assignment]  # restored below
    try:
        yield read
    finally:
        del nn.Module.__getattribute__  # that of object shows again


def _guard(module: nn.Module, name: str) -> Guard:
    value = getattr(module, name)
    if isinstance(value, (list, tuple)) and all(isinstance(each, _PLAIN) for each in value):
        return Guard(module, name, type(value)(value))  # a list may be changed in place
    if not isinstance(value, _PLAIN) and not inspect.isroutine(value) and not inspect.isclass(value):
        raise UntraceableError(f"{type(module).__name__} reads {name}, a {type(value).__name__}, in its forward pass")
    return Guard(module, name, value)


@contextmanager
def _without_changes() -> Iterator[list[str]]:
    """Raise where an attribute of a module is set meanwhile, which a graph would never do again.

    Gives a list of the attributes that were to be set.
    """
    written: list[str] = []
    original, own = nn.Module.__setattr__, threading.get_ident()

    def refuse(module: nn.Module, name: str, value: Any) -> None:
        if name.startswith(_CONSTANT) or threading.get_ident() != own:  # set by the tracer itself, or elsewhere
            return original(module, name, value)
        written.append(f"{type(module).__name__} sets {name} in its forward pass")
        raise UntraceableError(written[0])

    nn.Module.__setattr__ = refuse  # type: ignore[method-assign, assignment]  # restored below
    try:
        yield written
    finally:
        nn.Module.__setattr__ = original  # type: ignore[method-assign]  # as it was


@contextmanager
def _without_chance() -> Iterator[None]:
    """Raise if random numbers were drawn meanwhile, which the graph would repeat for ever; their states stay."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # what others may use
    try:
        yield
        after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
    same = before[0] == after[0] and repr(before[1]) == repr(after[1]) and torch.equal(before[2], after[2])
    if not same:
        raise UntraceableError("it draws random numbers outside of PyTorch's modules")
