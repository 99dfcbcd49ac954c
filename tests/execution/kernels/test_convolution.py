"""Sparse convolutions of maps in lanes, for every instruction set, against the definition and PyTorch."""

from __future__ import annotations

import pytest
import torch
from sparse_rows import SparseRows, filled, needs_kernels, random, runnable, sparse_rows
from torch import Tensor
from torch.nn.functional import conv2d
from torch.testing import assert_close

from lightning_sparse.execution.kernels import kernels, sizes_of

pytestmark = needs_kernels

COUNTS = [0, 1, 3, 4, 6, 18, 0]
CHANNELS = 2


class Layer:
    """A convolution with a 3 x 3 kernel over maps in lanes with a halo of 1.

    Args:
        height: Rows of the outputs.
        width: Columns of the outputs.
        stride: Stride.
        groups: Groups of 16 images.
    """

    def __init__(self, height: int, width: int, stride: int = 1, groups: int = 2) -> None:
        rows, columns = height * stride + 2, width * stride + 2
        self.lanes = random(groups, CHANNELS, rows, columns, 16)
        self.rows = sparse_rows(COUNTS, CHANNELS * 9)
        channel, tap = self.rows.columns // 9, self.rows.columns % 9
        offsets = ((channel * rows + tap // 3) * columns + tap % 3) * 16
        self.entries = SparseRows(self.rows.pointers, offsets.int(), self.rows.values)
        self.shape, self.stride = (groups, len(COUNTS), height, width, 16), stride
        row, plane = width * 16, height * width * 16
        self._sizes = (groups, CHANNELS, len(COUNTS), height, width, CHANNELS * rows * columns * 16)
        self._sizes += (columns * 16 * stride, 16 * stride, len(COUNTS) * plane, plane, row, 16)

    def outputs(self, variant: str, *, bias: Tensor | None = None, threads: int = 1) -> Tensor:
        found, entries = filled(*self.shape), self.entries
        sizes = sizes_of(*self._sizes, threads)
        each = (entries.pointers, entries.columns, entries.values, self.lanes, bias, found)
        kernels(variant)("convolve", *each, sizes=sizes)
        return found

    def gradients(self, variant: str, errors: Tensor, threads: int = 1) -> Tensor:
        found, entries = filled(len(self.entries.values)), self.entries
        sizes = sizes_of(*self._sizes, threads)
        kernels(variant)("correlate", entries.pointers, entries.columns, errors, self.lanes, found, sizes=sizes)
        return found

    def in_pytorch(self) -> tuple[Tensor, Tensor]:
        """Return the maps as PyTorch has them, and the dense weight."""
        maps = self.lanes.permute(0, 4, 1, 2, 3).flatten(0, 1).contiguous()
        weight = torch.zeros(len(COUNTS), CHANNELS * 9)
        row = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
        weight[row, self.rows.columns.long()] = self.rows.values
        return maps, weight.view(len(COUNTS), CHANNELS, 3, 3)


# Every tile and what is left beside it: 1 to 17 columns, and rows that a tile of several rows doesn't divide.
SIZES = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8), (9, 9), (2, 10), (11, 11), (3, 12), (5, 13)]
SIZES += [(1, 14), (2, 15), (4, 16), (3, 17), (2, 28), (1, 31), (33, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("variant", runnable())
def test_outputs_and_gradients_are_those_of_the_definition(variant: str, size: tuple[int, int]) -> None:
    for stride in (1, 2):
        layer = Layer(*size, stride)
        bias = random(len(COUNTS), seed=2) if stride == 1 else None
        assert_close(layer.outputs(variant, bias=bias), layer.outputs("reference", bias=bias), rtol=1e-5, atol=1e-5)
        errors = random(*layer.shape, seed=3)
        assert_close(layer.gradients(variant, errors), layer.gradients("reference", errors), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_reference_is_what_pytorch_computes(stride: int) -> None:
    layer, bias = Layer(4, 5, stride), random(len(COUNTS), seed=2)
    maps, weight = layer.in_pytorch()
    weight.requires_grad_()
    expected = conv2d(maps, weight, bias, stride)[:, :, :4, :5]
    found = layer.outputs("reference", bias=bias).permute(0, 4, 1, 2, 3).flatten(0, 1)
    assert_close(found, expected.detach())
    errors = random(*layer.shape, seed=3)
    expected.backward(errors.permute(0, 4, 1, 2, 3).flatten(0, 1))
    assert weight.grad is not None
    row = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
    of_entries = weight.grad.view(len(COUNTS), -1)[row, layer.rows.columns.long()]
    assert_close(layer.gradients("reference", errors), of_entries, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("variant", runnable())
def test_any_number_of_threads_gives_the_same_bits(variant: str) -> None:
    layer = Layer(9, 9, groups=3)
    errors = random(*layer.shape, seed=3)
    alone, gradients = layer.outputs(variant), layer.gradients(variant, errors)
    for threads in (2, 3, 8):
        for _ in range(5):
            assert torch.equal(layer.outputs(variant, threads=threads), alone)
            assert torch.equal(layer.gradients(variant, errors, threads), gradients)


@pytest.mark.parametrize("variant", runnable())
def test_strips_of_maps_that_no_cache_holds_make_the_whole(variant: str) -> None:
    rows, columns, channels = 18, 34, 700  # four rows of inputs are more than the strip's share of the cache
    lanes = random(1, channels, rows, columns, 16)
    entries = sparse_rows([5, 9], channels)
    offsets = (entries.columns * rows * columns * 16).int()
    sizes = sizes_of(
        1, channels, 2, 16, 32, channels * rows * columns * 16, columns * 16, 16, 2 * 8192, 8192, 512, 16, 1
    )
    found = {each: filled(1, 2, 16, 32, 16) for each in (variant, "reference")}
    for each, outputs in found.items():
        kernels(each)("convolve", entries.pointers, offsets, entries.values, lanes, None, outputs, sizes=sizes)
    assert_close(found[variant], found["reference"], rtol=1e-5, atol=1e-5)
