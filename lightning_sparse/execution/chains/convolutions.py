"""Sparse convolutions as steps of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.execution.chains.chain import Pass, Wanted
from lightning_sparse.execution.chains.maps import Found, lanes, size_of
from lightning_sparse.execution.chains.masked_weight import MaskedWeight, gathered
from lightning_sparse.execution.plans import ConvolutionPlan, Geometry


class Convolve:
    """A convolution with sparse weights.

    Args:
        weight: The weight, shape `(output channels, input channels / groups, rows, columns)`.
        bias: The bias, shape `(output channels,)`; None for none.
        geometry: The convolution, for inputs of any size.
        halo: Halo of the chain's maps.
    """

    def __init__(
        self, weight: MaskedWeight[ConvolutionPlan], bias: nn.Parameter | None, geometry: Geometry, halo: int
    ) -> None:
        self._weight, self._bias, self._geometry, self._halo = weight, bias, geometry, halo
        self.parameters = [weight.parameter] if bias is None else [weight.parameter, bias]

    def forward(self, inputs: Sequence[Tensor], batch: Pass) -> tuple[Tensor, Any]:
        """Return the maps of the outputs."""
        (given,) = inputs
        geometry = replace(self._geometry, inputs=size_of(given, self._halo))
        key = (geometry, self._halo)
        plan = self._weight.plan(key, lambda mask: ConvolutionPlan(mask, geometry, self._halo))
        forward = plan.forward
        values = self._weight.values(forward.order, batch)
        output = lanes(batch, geometry.channels[1], geometry.outputs, self._halo)
        inner = forward.outputs_of(output, self._halo)
        bias = None if self._bias is None else self._bias.detach()
        sizes = forward.sizes_for(batch.images, batch.threads)
        batch.run("convolve", forward.pointers, forward.offsets, values, given, bias, inner, sizes=sizes)
        return output, (plan, values)

    def backward(
        self, errors: Tensor, inputs: Sequence[Tensor], output: Tensor, kept: Any, batch: Pass, wanted: Wanted
    ) -> Found:
        """Return the errors of the inputs, and the gradients of weight and bias."""
        (given,), (plan, values) = inputs, kept
        forward, gradient = plan.forward, None
        inner = forward.outputs_of(errors, self._halo)
        if wanted.parameters[0]:
            found, sizes = torch.empty_like(values), forward.sizes_for(batch.images, batch.threads)
            batch.run("correlate", forward.pointers, forward.offsets, inner, given, found, sizes=sizes)
            gradient = self._weight.gradient(found, forward.order, batch)
        of_inputs = None
        if wanted.inputs[0]:
            of_inputs = batch.lease.take(*given.shape)
            for each in plan.backward:
                turned, sizes = gathered(values, each.order, batch), each.sizes_for(batch.images, batch.threads)
                first = each.outputs_of(of_inputs, self._halo)
                batch.run("convolve", each.pointers, each.offsets, turned, errors, None, first, sizes=sizes)
        if self._bias is None:
            return [of_inputs], [gradient]
        return [of_inputs], [gradient, errors.sum((0, 2, 3, 4)) if wanted.parameters[1] else None]
