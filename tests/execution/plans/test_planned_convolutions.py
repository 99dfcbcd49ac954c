"""Convolutions by offsets are those of PyTorch, forward and backward, whatever their geometry."""

from __future__ import annotations

import pytest
import torch
from sparse_rows import needs_kernels, random
from torch import Tensor
from torch.nn.functional import conv2d
from torch.testing import assert_close

from lightning_sparse.execution.kernels import kernels, sizes_of
from lightning_sparse.execution.plans import ConvolutionPlan, Geometry
from lightning_sparse.validation.errors import InvalidValueError

pytestmark = needs_kernels

GEOMETRIES = [
    Geometry((3, 4), (6, 5), (3, 3), padding=(1, 1)),
    Geometry((3, 4), (8, 8), (3, 3), (2, 2), (1, 1)),
    Geometry((3, 4), (7, 9), (3, 3), (2, 2), (1, 1)),
    Geometry((3, 4), (8, 7), (1, 1), (2, 2)),
    Geometry((3, 4), (9, 8), (5, 5), (1, 1), (2, 2)),
    Geometry((1, 2), (12, 11), (7, 7), (2, 2), (3, 3)),
    Geometry((4, 6), (7, 7), (3, 3), (1, 1), (1, 1), groups=2),
    Geometry((4, 4), (7, 7), (3, 3), (2, 2), (1, 1), groups=4),
    Geometry((2, 3), (9, 9), (3, 3), (1, 1), (2, 2), (2, 2)),
    Geometry((2, 3), (9, 8), (3, 2), (2, 3), (1, 0)),
    Geometry((2, 3), (10, 10), (3, 3), (3, 3)),
    Geometry((2, 3), (4, 4), (4, 4)),
    Geometry((2, 3), (5, 5), (1, 3), padding=(2, 3)),
    Geometry((2, 3), (11, 11), (2, 2), (4, 5)),
]


def to_lanes(maps: Tensor, halo: int) -> Tensor:
    batch, channels, height, width = maps.shape
    lanes = torch.zeros(-(-batch // 16), channels, height + 2 * halo, width + 2 * halo, 16)
    kernels("reference")("to_lanes", maps.contiguous(), lanes, sizes=sizes_of(*maps.shape, halo))
    return lanes


def from_lanes(lanes: Tensor, shape: torch.Size, halo: int) -> Tensor:
    maps = torch.empty(shape)
    kernels("reference")("from_lanes", lanes, maps, sizes=sizes_of(*shape, halo))
    return maps


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("wider", [0, 2])
def test_a_planned_convolution_is_that_of_pytorch(geometry: Geometry, density: float, wider: int) -> None:
    g, batch, halo = geometry, 18, geometry.halo + wider
    shape = (g.channels[1], g.channels[0] // g.groups, *g.kernel)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < density
    weight = (random(*shape) * mask).requires_grad_()
    inputs = random(batch, g.channels[0], *g.inputs, seed=2).requires_grad_()
    expected = conv2d(inputs, weight, None, g.stride, g.padding, g.dilation, g.groups)
    assert expected.shape[2:] == g.outputs
    errors = random(*expected.shape, seed=4)
    expected.backward(errors)
    assert weight.grad is not None
    assert inputs.grad is not None

    plan, run = ConvolutionPlan(mask, g, halo), kernels()
    values, lanes = weight.detach().reshape(-1)[plan.forward.order.long()], to_lanes(inputs.detach(), halo)
    outputs = torch.zeros(2, g.channels[1], g.outputs[0] + 2 * halo, g.outputs[1] + 2 * halo, 16)
    forward, sizes = plan.forward, plan.forward.sizes_for(batch, 2)
    first = forward.outputs_of(outputs, halo)
    run("convolve", forward.pointers, forward.offsets, values, lanes, None, first, sizes=sizes)
    assert_close(from_lanes(outputs, expected.shape, halo), expected.detach(), rtol=1e-4, atol=1e-5)

    of_outputs, gradients = to_lanes(errors, halo), torch.full_like(values, float("nan"))
    first = forward.outputs_of(of_outputs, halo)
    run("correlate", forward.pointers, forward.offsets, first, lanes, gradients, sizes=sizes)
    assert_close(gradients, weight.grad.reshape(-1)[forward.order.long()], rtol=1e-4, atol=1e-3)

    found = to_lanes(torch.full_like(inputs, float("nan")), halo)
    for each in plan.backward:
        chosen, first, sizes = values[each.order.long()], each.outputs_of(found, halo), each.sizes_for(batch, 2)
        run("convolve", each.pointers, each.offsets, chosen, of_outputs, None, first, sizes=sizes)
    assert_close(from_lanes(found, inputs.shape, halo), inputs.grad, rtol=1e-4, atol=1e-5)
    inner = found[:, :, halo : halo + g.inputs[0], halo : halo + g.inputs[1]]
    assert not (found.count_nonzero() - inner.count_nonzero())


def test_a_halo_is_as_wide_as_it_must_be_and_a_narrower_one_is_refused() -> None:
    assert [each.halo for each in GEOMETRIES[:4]] == [1, 1, 1, 0]
    whole = Geometry((2, 3), (4, 4), (4, 4))  # which moves over the borders of the errors
    assert whole.halo == 3
    with pytest.raises(InvalidValueError, match="a halo of at least 3"):
        ConvolutionPlan(torch.ones(3, 2, 4, 4, dtype=torch.bool), whole, 2)


def test_maps_that_32_bits_cannot_count_are_refused() -> None:
    mask, large = torch.ones(1, 1, 1, 1, dtype=torch.bool), Geometry((1, 1), (12_000, 12_000), (1, 1))
    with pytest.raises(InvalidValueError, match="maps of 16 images of at most 2147483647"):
        ConvolutionPlan(mask, large, 0)
