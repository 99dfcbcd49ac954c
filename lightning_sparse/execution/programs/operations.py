"""What a node of a traced graph does, if chains can do it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn import functional

from lightning_sparse.execution.programs.tracing import is_transparent

Kind = Literal["convolution", "normalization", "relu", "pool", "add", "average", "flatten", "linear", "identity"]


@dataclass(frozen=True)
class Operation:
    """One operation of a graph.

    Attributes:
        kind: The operation.
        inputs: Nodes whose values it takes.
        module: Module that does it, if it is one.
        in_place: Whether it overwrites its first input.
    """

    kind: Kind
    inputs: tuple[fx.Node, ...]
    module: nn.Module | None = None
    in_place: bool = False


def operation_of(node: fx.Node, root: nn.Module) -> Operation | None:
    """Return the operation of a node; None for one that no chain has.

    Args:
        node: The node.
        root: Module whose submodules the graph calls, in the mode that the graph was traced in.
    """
    found = None
    if node.op == "call_module":
        found = _of_module(node, root.get_submodule(str(node.target)))
    elif node.op in ("call_function", "call_method"):
        found = _of_function(node)
    if found is None or not all(isinstance(each, fx.Node) for each in found.inputs):
        return None
    return found


def _of_module(node: fx.Node, module: nn.Module) -> Operation | None:
    if len(node.args) != 1 or node.kwargs or not is_transparent(module):
        return None
    kind = kind_of(module)
    if kind is None:
        return None
    in_place = bool(getattr(module, "inplace", False)) and kind == "relu"
    return Operation(kind, _nodes(node.args), module, in_place)


def kind_of(module: nn.Module) -> Kind | None:
    """Return what exactly these classes do: one that derives from them may do something else."""
    if type(module) is nn.Conv2d:
        return "convolution" if module.padding_mode == "zeros" and not isinstance(module.padding, str) else None
    if type(module) is nn.MaxPool2d:
        options = (module.kernel_size, module.stride, module.padding, module.dilation)
        plain = not module.return_indices and not module.ceil_mode
        return "pool" if plain and [_pair(each) for each in options] == [(2, 2), (2, 2), (0, 0), (1, 1)] else None
    if type(module) is nn.AdaptiveAvgPool2d:
        return "average" if _pair(module.output_size) == (1, 1) else None
    if type(module) is nn.Flatten:
        return "flatten" if (module.start_dim, module.end_dim) == (1, -1) else None
    if type(module) is nn.Dropout:
        return "identity" if not module.training or module.p == 0 else None
    plain_kinds: dict[type[nn.Module], Kind] = {
        nn.BatchNorm2d: "normalization",
        nn.ReLU: "relu",
        nn.Linear: "linear",
        nn.Identity: "identity",
    }
    return plain_kinds.get(type(module))


# Whether they overwrite their first input.
_RELU = {torch.relu: False, functional.relu: False, "relu": False}
_RELU |= {torch.relu_: True, functional.relu_: True, "relu_": True}
_ADD = {torch.add: False, operator.add: False, "add": False, operator.iadd: True, "add_": True}
_FLATTEN = {torch.flatten, "flatten"}


def _of_function(node: fx.Node) -> Operation | None:
    target: Any = node.target
    args, kwargs = node.args, {name: value for name, value in node.kwargs.items() if value is not False}
    in_place = bool(kwargs.pop("inplace", False))
    if target in _RELU and len(args) == 1 and not kwargs:
        return Operation("relu", _nodes(args), in_place=in_place or _RELU[target])
    if target in _ADD and len(args) == 2 and not kwargs:
        return Operation("add", _nodes(args), in_place=_ADD[target])
    if target in _FLATTEN and _is_flatten(args[1:], kwargs):
        return Operation("flatten", _nodes(args[:1]))
    if target is functional.adaptive_avg_pool2d and _pair((*args[1:], *kwargs.values())) == (1, 1):
        return Operation("average", _nodes(args[:1]))
    if target is functional.max_pool2d and _is_pool(args[1:], kwargs):
        return Operation("pool", _nodes(args[:1]))
    return None


def _is_pool(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Tell whether arguments are those of a pooling of 2 x 2 squares."""
    given = {**dict(zip(("kernel_size", "stride", "padding", "dilation"), args, strict=False)), **kwargs}
    pairs = {name: _pair(value) for name, value in given.items() if value is not None}
    expected = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}
    return "kernel_size" in pairs and pairs.items() <= expected.items()


def _is_flatten(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    named = {**dict(zip(("start_dim", "end_dim"), args, strict=False)), **kwargs}
    return named in ({"start_dim": 1}, {"start_dim": 1, "end_dim": -1})


def _nodes(args: Sequence[Any]) -> tuple[fx.Node, ...]:
    return tuple(args)


def _pair(value: Any) -> Any:
    """Return two numbers, for one number or two of any kind."""
    while isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
