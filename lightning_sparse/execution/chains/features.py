"""Steps on feature-major batches: `[features, examples]`, the examples padded with zeros to a multiple of 16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.execution.chains.chain import Pass, Wanted
from lightning_sparse.execution.chains.masked_weight import MaskedWeight, gathered
from lightning_sparse.execution.kernels import sizes_of
from lightning_sparse.execution.plans import Rows, rows_of, transposed


def padded(images: int) -> int:
    """Return the number of examples with padding."""
    return -(-images // 16) * 16


class EnterFeatures:
    """Go from `[batch, features]` to the feature-major layout."""

    parameters: Sequence[nn.Parameter] = ()

    def forward(self, inputs: Sequence[Tensor], batch: Pass) -> tuple[Tensor, Any]:
        """Return the feature-major batch."""
        (given,) = inputs
        output = batch.lease.take(given.shape[1], padded(batch.images))
        sizes = sizes_of(*given.shape, output.shape[1])
        given = given.contiguous()
        batch.run("to_features", given, output, sizes=sizes)
        return output, sizes

    def backward(
        self, errors: Tensor, inputs: Sequence[Tensor], output: Tensor, kept: Any, batch: Pass, wanted: Wanted
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """Return the errors of the batch."""
        if not wanted.inputs[0]:
            return [None], []
        found = torch.empty(inputs[0].shape)
        batch.run("from_features", errors, found, sizes=kept)
        return [found], []


class LeaveFeatures:
    """Come back to `[batch, features]`."""

    parameters: Sequence[nn.Parameter] = ()

    def forward(self, inputs: Sequence[Tensor], batch: Pass) -> tuple[Tensor, Any]:
        """Return the batch, in memory of its own."""
        (given,) = inputs
        output = torch.empty(batch.images, len(given))
        sizes = sizes_of(*output.shape, given.shape[1])
        batch.run("from_features", given, output, sizes=sizes)
        return output, sizes

    def backward(
        self, errors: Tensor, inputs: Sequence[Tensor], output: Tensor, kept: Any, batch: Pass, wanted: Wanted
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """Return the feature-major errors."""
        found = batch.lease.take(*inputs[0].shape)
        batch.run("to_features", errors, found, sizes=kept)
        return [found], []


class Multiply:
    """A linear layer, with or without a ReLU after it.

    Args:
        weight: The weight, shape `(outputs, inputs)`.
        bias: The bias, shape `(outputs,)`; None for none.
        relu: Whether a ReLU follows.
    """

    def __init__(self, weight: MaskedWeight[tuple[Rows, Rows]], bias: nn.Parameter | None, relu: bool = False) -> None:
        self._weight, self._bias, self._relu = weight, bias, relu
        self.parameters = [weight.parameter] if bias is None else [weight.parameter, bias]

    def forward(self, inputs: Sequence[Tensor], batch: Pass) -> tuple[Tensor, Any]:
        """Return the outputs."""
        (given,) = inputs
        plan = self._weight.plan(None, _planned)
        values = self._weight.values(plan[0].order, batch)
        output = batch.lease.take(len(self._weight.parameter), given.shape[1])
        bias = None if self._bias is None else self._bias.detach()
        sizes = sizes_of(*output.shape, batch.threads, self._relu)
        batch.run("sparse_product", plan[0].pointers, plan[0].columns, values, given, bias, output, sizes=sizes)
        return output, (plan, values)

    def backward(
        self, errors: Tensor, inputs: Sequence[Tensor], output: Tensor, kept: Any, batch: Pass, wanted: Wanted
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """Return the errors of the inputs, and the gradients of weight and bias."""
        (given,), ((rows, back), values) = inputs, kept
        sizes = sizes_of(*output.shape, batch.threads, 0)
        sums = torch.empty(len(output)) if self._bias is not None and wanted.parameters[1] else None
        if self._relu or sums is not None:
            batch.run("relu_errors", errors, output if self._relu else None, sums, sizes=sizes)
        gradient = None
        if wanted.parameters[0]:
            found = torch.empty_like(values)
            batch.run("sampled_product", rows.pointers, rows.columns, errors, given, found, sizes=sizes)
            gradient = self._weight.gradient(found, rows.order, batch)
        of_inputs = None
        if wanted.inputs[0]:
            of_inputs = batch.lease.take(*given.shape)
            turned, sizes = gathered(values, back.order, batch), sizes_of(*given.shape, batch.threads, 0)
            batch.run("sparse_product", back.pointers, back.columns, turned, errors, None, of_inputs, sizes=sizes)
        return [of_inputs], [gradient] if self._bias is None else [gradient, sums]


def _planned(mask: Tensor) -> tuple[Rows, Rows]:
    rows = rows_of(mask)
    return rows, transposed(rows, mask.shape[1])
