"""Several operations on one layout, as a single operation of PyTorch's autograd.

Each operation costs PyTorch some microseconds and, in a layout of its own, two copies of its data. A chain goes to its
layout once, runs its steps there, forward and backward, and comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightning_sparse.execution.chains.buffers import Buffers, Lease
from lightning_sparse.execution.kernels import Kernels, kernels


@dataclass
class Pass:
    """One forward pass of a chain, and its backward pass.

    Attributes:
        images: Number of examples in the batch.
        run: The kernels.
        threads: Number of threads.
        lease: Buffers.
        values: Value of each input and of each node, in their order.
        kept: Tensors and numbers that each node keeps for its backward pass.
    """

    images: int
    run: Kernels
    threads: int
    lease: Lease
    values: list[Tensor] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)


class Step(Protocol):
    """One operation of a chain."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """Parameters that it has gradients of."""

    def forward(self, inputs: Sequence[Tensor], batch: Pass) -> tuple[Tensor, Any]:
        """Return the output, and what the backward pass needs besides inputs and output.

        Args:
            inputs: Its inputs, which must stay as they are.
            batch: The pass, with the buffers.
        """

    def backward(
        self, errors: Tensor, inputs: Sequence[Tensor], output: Tensor, kept: Any, batch: Pass, wanted: Wanted
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """Return the errors of the inputs and the gradients of the parameters, None where they aren't wanted.

        Args:
            errors: Gradient of the loss by the output; a buffer that the step may overwrite.
            inputs: Inputs of the forward pass.
            output: Result of the forward pass.
            kept: Second result of the forward pass.
            batch: The pass.
            wanted: The gradients that are wanted.
        """


@dataclass(frozen=True)
class Wanted:
    """Which gradients of a step are wanted.

    Attributes:
        inputs: Whether the errors of each input are.
        parameters: Whether the gradient of each parameter is.
    """

    inputs: tuple[bool, ...]
    parameters: tuple[bool, ...]


@dataclass(frozen=True)
class Node:
    """A step at its place in a chain.

    Attributes:
        step: The step.
        inputs: Numbers of the values that it takes: inputs of the chain come first, then the nodes in their order.
    """

    step: Step
    inputs: tuple[int, ...]


class Chain:
    """Steps that run one after the other; the output is that of the last.

    Args:
        nodes: The steps, each after those whose outputs it takes.
        inputs: Number of inputs of the chain.

    Attributes:
        parameters: Parameters of all steps.
    """

    def __init__(self, nodes: Sequence[Node], inputs: int = 1) -> None:
        self._nodes, self._inputs = tuple(nodes), inputs
        self._buffers, self._images = Buffers(), 0
        self.parameters = [each for node in nodes for each in node.step.parameters]

    @classmethod
    def of(cls, *steps: Step) -> Chain:
        """Return a chain in which each step takes the output of the one before."""
        return cls([Node(step, (index,)) for index, step in enumerate(steps)])

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the output for a batch.

        Args:
            inputs: The inputs, float32 on the CPU, with as many examples each.
        """
        output: Tensor = _Run.apply(self, *inputs, *self.parameters)
        return output

    def forward(self, inputs: Sequence[Tensor]) -> Pass:
        """Run all steps, and return the pass, whose last value is the output.

        Args:
            inputs: The inputs.
        """
        if len(inputs[0]) != self._images:  # buffers of other batches would add up
            self._buffers, self._images = Buffers(), len(inputs[0])
        batch = Pass(len(inputs[0]), kernels(), torch.get_num_threads(), Lease(self._buffers), [*inputs])
        for node in self._nodes:
            output, kept = node.step.forward([batch.values[index] for index in node.inputs], batch)
            batch.values.append(output)
            batch.kept.append(kept)
        return batch

    def backward(self, errors: Tensor, batch: Pass, wanted: Sequence[bool]) -> list[Tensor | None]:
        """Return the gradients of the inputs and the parameters, None where they aren't wanted.

        Args:
            errors: Gradient of the loss by the output.
            batch: The forward pass.
            wanted: Whether that of each input and each parameter is wanted.
        """
        needs = self._needs(wanted)
        errors_of: dict[int, Tensor] = {len(needs) - 1: errors}
        gradients: list[list[Tensor | None]] = []
        for index in reversed(range(len(self._nodes))):
            node, place = self._nodes[index], self._inputs + index
            of_output = errors_of.pop(place, None)
            if of_output is None:
                gradients.append([None] * len(node.step.parameters))
                continue
            of_inputs, of_parameters = node.step.backward(
                of_output,
                [batch.values[each] for each in node.inputs],
                batch.values[place],
                batch.kept[index],
                batch,
                Wanted(tuple(needs[each] for each in node.inputs), self._wanted_of(index, wanted)),
            )
            gradients.append([*of_parameters])
            for each, found in zip(node.inputs, of_inputs, strict=True):
                if found is not None:
                    errors_of[each] = found if each not in errors_of else errors_of[each].add_(found)
            if all(of_output is not each for each in errors_of.values()):
                batch.lease.give(of_output)
        of_chain = [errors_of.get(index) for index in range(self._inputs)]
        return [*of_chain, *(each for found in reversed(gradients) for each in found)]

    def _wanted_of(self, index: int, wanted: Sequence[bool]) -> tuple[bool, ...]:
        first = self._inputs + sum(len(node.step.parameters) for node in self._nodes[:index])
        return tuple(wanted[first : first + len(self._nodes[index].step.parameters)])

    def _needs(self, wanted: Sequence[bool]) -> list[bool]:
        """Return whether the errors of each value lead to a gradient that is wanted."""
        needs = [*wanted[: self._inputs]]
        for index, node in enumerate(self._nodes):
            needs.append(any(needs[each] for each in node.inputs) or any(self._wanted_of(index, wanted)))
        return needs


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chain: Chain, *tensors: Tensor) -> Tensor:
        batch = chain.forward(tensors[: len(tensors) - len(chain.parameters)])
        # The pass lives as long as a saved tensor: until the backward pass, or longer if the graph is retained. As an
        # attribute of the context it would live until the loss is forgotten, after the next forward pass.
        token: Any = torch.empty(0)
        token.batch = batch
        ctx.save_for_backward(token)
        ctx.chain = chain
        output = batch.values[-1]
        # The output will refer to the graph, and so to the pass: a circle, which only the garbage collector would end.
        batch.values[-1] = output.detach()
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, errors: Tensor) -> Any:
        (token,) = ctx.saved_tensors
        return None, *ctx.chain.backward(errors.contiguous(), token.batch, ctx.needs_input_grad[1:])
