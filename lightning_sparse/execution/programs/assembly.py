"""Chains for runs of operations, made for one size of inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from lightning_sparse.execution.chains import (
    Activate,
    AverageMaps,
    Chain,
    Convolve,
    EnterFeatures,
    EnterMaps,
    FlattenMaps,
    LeaveFeatures,
    LeaveMaps,
    MaskedWeight,
    Multiply,
    Node,
    Normalize,
    Step,
)
from lightning_sparse.execution.plans import Geometry
from lightning_sparse.execution.programs.operations import Operation
from lightning_sparse.execution.programs.runs import Run

WeightOf = Callable[[nn.Parameter], MaskedWeight[Any]]


class UnfitError(Exception):
    """A run can't be a chain for inputs of this size; the message says why."""


def assemble(run: Run, shapes: Sequence[torch.Size], weight_of: WeightOf) -> Chain:
    """Return the chain of a run.

    Args:
        run: The run.
        shapes: Shapes of its inputs, in their order.
        weight_of: Function that returns the masked weight of a parameter.

    Raises:
        UnfitError: If inputs have another number of dimensions than their layout, no position is left of a map, or
            parameters are not ordinary ones in float32 on the CPU.
    """
    for operation in run.operations.values():
        if operation.module is not None:
            _check_numbers(operation.module)
    for (node, layout), shape in zip(run.inputs.items(), shapes, strict=True):
        if len(shape) != (4 if layout == "maps" else 2) or not shape.numel():
            raise UnfitError(f"{node} has shape {tuple(shape)}")
    return _Assembly(run, shapes, weight_of).chain()


def size_after(operation: Operation, given: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of an operation's result, without the batch.

    Args:
        operation: The operation.
        given: Size of its inputs: channels, rows and columns, or features.

    Raises:
        UnfitError: If its module is one for inputs of another size, or nothing is left of maps.
    """
    module, found = operation.module, given
    wanted = given[0]
    if isinstance(module, nn.Conv2d):
        wanted = module.in_channels
        found = (module.out_channels, *geometry_of(module, (given[1], given[2])).outputs)
    elif isinstance(module, nn.BatchNorm2d):
        wanted = module.num_features
    elif isinstance(module, nn.Linear):
        wanted, found = module.in_features, (module.out_features,)
    elif operation.kind == "average":
        found = (given[0], 1, 1)
    elif operation.kind == "flatten":
        found = (prod(given),)
    elif operation.kind == "pool":
        found = (given[0], given[1] // 2, given[2] // 2)
    if min(found) < 1:
        raise UnfitError(f"nothing is left of maps of size {given[1:]}")
    if wanted != given[0]:
        raise UnfitError(f"{type(module).__name__} is for {wanted} features or channels and was given {given[0]}")
    return found


def _check_numbers(module: nn.Module) -> None:
    """Raise unless kernels can read the parameters and statistics of a module."""
    for each in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        is_plain = type(each) in (nn.Parameter, Tensor) and each.device.type == "cpu"
        if not is_plain or (each.is_floating_point() and each.dtype is not torch.float32):
            raise UnfitError(f"{type(module).__name__} has a {type(each).__name__} of {each.dtype} on {each.device}")


def geometry_of(module: nn.Conv2d, size: tuple[int, int]) -> Geometry:
    """Return the geometry of a layer for maps of a size."""
    kernel, stride, padding, dilation = (
        (int(each[0]), int(each[1])) for each in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    return Geometry((module.in_channels, module.out_channels), size, kernel, stride, padding, dilation, module.groups)


def _parameters(module: nn.Conv2d | nn.Linear) -> tuple[nn.Parameter, nn.Parameter | None]:
    named = dict(module.named_parameters(recurse=False))
    return named["weight"], named.get("bias")


class _Assembly:
    def __init__(self, run: Run, shapes: Sequence[torch.Size], weight_of: WeightOf) -> None:
        self._run, self._weight_of = run, weight_of
        self._external = {node: index for index, node in enumerate(run.inputs)}
        self._nodes: list[Node] = []
        self._values: dict[fx.Node, int] = {}
        # Values of the run's inputs, and means of maps, in the kernels' layout.
        self._entered: dict[int, int] = {}
        self._done: set[fx.Node] = set()
        self._halo = self._find_halo(shapes)

    def _find_halo(self, shapes: Sequence[torch.Size]) -> int:
        """Return the least halo of all convolutions."""
        sizes = {node: tuple(shape[1:]) for node, shape in zip(self._run.inputs, shapes, strict=True)}
        halo = 0
        for node, operation in self._run.operations.items():
            given = sizes[operation.inputs[0]]
            if any(sizes[each] != given for each in operation.inputs):
                raise UnfitError(f"{node} adds values of different sizes")
            sizes[node] = size_after(operation, given)
            if isinstance(operation.module, nn.Conv2d):
                halo = max(halo, geometry_of(operation.module, (given[1], given[2])).halo)
        return halo

    def chain(self) -> Chain:
        """Return the chain."""
        for node, operation in self._run.operations.items():
            if node not in self._done:
                self._add(node, operation)
        layout, value = self._run.layouts[self._run.output], self._values[self._run.output]
        if layout == "maps":
            self._emit(LeaveMaps(self._halo), value)
        elif layout == "features":
            self._emit(LeaveFeatures(), value)
        elif value != len(self._external) + len(self._nodes) - 1:
            raise UnfitError("its result is not that of its last operation")
        return Chain(self._nodes, len(self._external))

    def _emit(self, step: Step, *inputs: int) -> int:
        self._nodes.append(Node(step, inputs))
        return len(self._external) + len(self._nodes) - 1

    def _value(self, node: fx.Node) -> int:
        """Return the number of a value in the layout that its users need."""
        if node in self._values:
            return self._values[node]
        step = EnterMaps(self._halo) if self._run.inputs[node] == "maps" else EnterFeatures()
        self._values[node] = self._emit(step, self._external[node])
        return self._values[node]

    def _add(self, node: fx.Node, operation: Operation) -> None:
        first, module = operation.inputs[0], operation.module
        if operation.kind == "identity" or (operation.kind == "flatten" and self._layout(first) != "maps"):
            self._values[node] = self._value(first)
        elif operation.kind == "flatten":
            self._values[node] = self._emit(FlattenMaps(self._halo), self._value(first))
        elif operation.kind == "average":
            self._values[node] = self._emit(AverageMaps(self._halo), self._value(first))
        elif isinstance(module, nn.Conv2d):
            geometry = geometry_of(module, (0, 0))
            weight, bias = _parameters(module)
            step = Convolve(self._weight_of(weight), bias, geometry, self._halo)
            self._values[node] = self._emit(step, self._value(first))
        elif isinstance(module, nn.Linear):
            self._multiply(node, first, module)
        else:
            self._activate(node, operation)

    def _layout(self, node: fx.Node) -> str:
        return self._run.layouts.get(node) or self._run.inputs[node]

    def _multiply(self, node: fx.Node, first: fx.Node, module: nn.Linear) -> None:
        relu = self._run.only_users.get(node)
        follows = relu is not None and self._run.operations[relu].kind == "relu"
        weight, bias = _parameters(module)
        step = Multiply(self._weight_of(weight), bias, relu=follows)
        value = self._value(first)
        if self._layout(first) == "plain":
            if value not in self._entered:
                self._entered[value] = self._emit(EnterFeatures(), value)
            value = self._entered[value]
        self._take(node, relu if follows else None, self._emit(step, value))

    def _take(self, node: fx.Node, last: fx.Node | None, value: int) -> None:
        for each in (node, last):
            if each is not None:
                self._values[each] = value
                self._done.add(each)

    def _activate(self, node: fx.Node, operation: Operation) -> None:
        """Add a normalization, or a sum, ReLU or pooling, together with those that follow."""
        first, residual = operation.inputs[0], operation.inputs[1] if operation.kind == "add" else None
        done, last = [operation.kind], node
        while (user := self._run.only_users.get(last)) is not None:
            follower = self._run.operations[user]
            order = ("normalization", "add", "relu", "pool")
            if follower.kind not in order or order.index(follower.kind) <= max(map(order.index, done)):
                break
            if follower.kind == "add":
                other = [each for each in follower.inputs if each is not last]
                if len(other) != 1 or not (other[0] in self._values or other[0] in self._external):
                    break
                residual = other[0]
            done.append(follower.kind)
            self._done.add(user)
            last = user
        inputs = [self._value(first)] if residual is None else [self._value(first), self._value(residual)]
        relu, pool = "relu" in done, "pool" in done
        norm = operation.module if isinstance(operation.module, nn.BatchNorm2d) else None
        step = Activate(self._halo, relu, pool) if norm is None else Normalize(norm, self._halo, relu, pool)
        self._take(node, last, self._emit(step, *inputs))
