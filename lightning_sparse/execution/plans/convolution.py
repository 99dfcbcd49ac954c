"""Convolutions as lists of offsets: forward, and backward to the inputs as convolutions of the errors.

Maps lie in lanes: `[groups of 16 images, channels, rows, columns, 16]` (execution/kernels/sources/lanes.h), with a halo
of zeros around each map, as wide as the padding at least.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from lightning_sparse.execution.kernels import sizes_of
from lightning_sparse.execution.plans.rows import MOST_ENTRIES, Rows, rows_of, transposed
from lightning_sparse.validation.errors import InvalidValueError

_IMAGES = 16  # lanes.h


@dataclass(frozen=True)
class Geometry:
    """What a convolution is but for its weights, for maps of one size; pairs are rows and columns.

    Attributes:
        channels: Numbers of input and of output channels.
        inputs: Size of the input maps.
        kernel: Size of the kernel.
        stride: Stride.
        padding: Rows and columns of zeros at each border.
        dilation: Distance of the kernel's taps.
        groups: Number of groups of channels.
    """

    channels: tuple[int, int]
    inputs: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def outputs(self) -> tuple[int, int]:
        """Size of the output maps."""
        rows, columns = (
            (size + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
            for size, pad, dilation, taps, stride in zip(
                self.inputs, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        return rows, columns

    @property
    def halo(self) -> int:
        """Rows and columns of zeros that are needed around input maps and around the errors of output maps."""
        return max(*self.padding, *(self._beyond(axis) for axis in (0, 1)))

    def _beyond(self, axis: int) -> int:
        """How far positions of the errors that an input gets something from lie outside of them."""
        size, found = self.outputs[axis], 0
        for phase in range(self.stride[axis]):
            last = -(-(self.inputs[axis] - phase) // self.stride[axis]) - 1
            for shift in self.shifts(axis, phase).values():
                found = max(found, -shift, last + shift - (size - 1)) if last >= 0 else found
        return found

    def shifts(self, axis: int, phase: int) -> dict[int, int]:
        """Return which taps reach the inputs at `phase + stride * u`, and how far from u the output of each is.

        Args:
            axis: 0 for rows, 1 for columns.
            phase: Number from 0 to stride - 1.
        """
        stride, reach = self.stride[axis], phase + self.padding[axis]
        distances = {tap: reach - tap * self.dilation[axis] for tap in range(self.kernel[axis])}
        return {tap: distance // stride for tap, distance in distances.items() if distance % stride == 0}


@dataclass(frozen=True)
class Offsets:
    """A convolution as the kernels take it.

    Attributes:
        pointers: Number of the first entry of each output channel, and of all, int32.
        offsets: Distance in floats of the input of each entry from that of the first position, int32.
        order: Place of each entry's value, int32: in the flat weight; backward, among those of the forward entries.
        phase: Row and column of the first output.
        sizes: Sizes of the kernels but for groups of images and threads, in their order.
    """

    pointers: Tensor
    offsets: Tensor
    order: Tensor
    phase: tuple[int, int]
    sizes: tuple[int, ...]

    def sizes_for(self, images: int, threads: int) -> ctypes.Array[ctypes.c_int64]:
        """Return the sizes of a batch.

        Args:
            images: Number of images.
            threads: Number of threads.
        """
        return sizes_of(-(-images // _IMAGES), *self.sizes, threads)

    def outputs_of(self, maps: Tensor, halo: int) -> Tensor:
        """Return the maps from their first output on, whose address the kernels take."""
        return maps[:, :, halo + self.phase[0] :, halo + self.phase[1] :]


class ConvolutionPlan:
    """The offsets of one layer's active weights.

    Args:
        mask: Mask of the weight, bool, shape `(output channels, input channels / groups, rows, columns)`, on the CPU.
        geometry: The convolution.
        halo: Halo of input and output maps; at least that of the geometry.

    Raises:
        ValueError: If the halo is too narrow, or the maps of 16 images have more numbers than 32 bits can count.

    Attributes:
        forward: The convolution of the inputs.
        backward: Convolutions of the errors that together make those of the inputs: one for each row and column of the
            stride. Inputs that no weight reaches are in one without entries, so that all are written.
    """

    def __init__(self, mask: Tensor, geometry: Geometry, halo: int) -> None:
        self._geometry, self._halo = geometry, halo
        self._check()
        rows = rows_of(mask)
        taps = geometry.kernel[0] * geometry.kernel[1]
        # Channel of the inputs, and tap, of each entry.
        channel = rows.columns.long() // taps + rows.rows // (geometry.channels[1] // geometry.groups) * mask.shape[1]
        tap = rows.columns.long() % taps
        self._row, self._column = tap // geometry.kernel[1], tap % geometry.kernel[1]
        self.forward = self._forward(rows, channel)
        self.backward = self._backward(rows, channel)

    def _check(self) -> None:
        geometry = self._geometry
        if self._halo < geometry.halo:
            raise InvalidValueError(
                expected=f"a halo of at least {geometry.halo}, for {geometry}",
                got=str(self._halo),
                cure="Geometry.halo is the least one",
            )
        sizes = zip(geometry.channels, (geometry.inputs, geometry.outputs), strict=True)
        most = max(channels * self._distances(size)[1] for channels, size in sizes)
        if most > MOST_ENTRIES:
            raise InvalidValueError(
                expected=f"maps of 16 images of at most {MOST_ENTRIES} numbers, which kernels can count",
                got=str(most),
                cure="leave the layer to PyTorch",
            )

    def _distances(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the distances in floats of rows and of maps."""
        row = (size[1] + 2 * self._halo) * _IMAGES
        return row, (size[0] + 2 * self._halo) * row

    def _forward(self, rows: Rows, channel: Tensor) -> Offsets:
        g = self._geometry
        (row, plane), (out_row, out_plane) = self._distances(g.inputs), self._distances(g.outputs)
        down = self._row * g.dilation[0] - g.padding[0] + self._halo
        across = self._column * g.dilation[1] - g.padding[1] + self._halo
        offsets = channel * plane + down * row + across * _IMAGES
        sizes = (
            *(*g.channels, *g.outputs),
            *(g.channels[0] * plane, g.stride[0] * row, g.stride[1] * _IMAGES),
            *(g.channels[1] * out_plane, out_plane, out_row, _IMAGES),
        )
        return Offsets(rows.pointers, offsets.int(), rows.order, (0, 0), sizes)

    def _backward(self, rows: Rows, channel: Tensor) -> list[Offsets]:
        g = self._geometry
        (row, plane), (out_row, out_plane) = self._distances(g.inputs), self._distances(g.outputs)
        found = []
        for phase in product(range(min(g.stride[0], g.inputs[0])), range(min(g.stride[1], g.inputs[1]))):
            shifts = [_table(g.shifts(axis, phase[axis]), g.kernel[axis]) for axis in (0, 1)]
            down, across = shifts[0][self._row], shifts[1][self._column]
            chosen = ((down != _NONE) & (across != _NONE)).nonzero().view(-1)
            offsets = rows.rows * out_plane + (down + self._halo) * out_row + (across + self._halo) * _IMAGES
            some = Rows(_counted(rows.rows[chosen], g.channels[1]), channel[chosen].int(), chosen.int())
            back = transposed(some, g.channels[0])
            entries = chosen[back.order.long()]
            height, width = (-(-(g.inputs[axis] - phase[axis]) // g.stride[axis]) for axis in (0, 1))
            sizes = (
                *(g.channels[1], g.channels[0], height, width),
                *(g.channels[1] * out_plane, out_row, _IMAGES),
                *(g.channels[0] * plane, plane, g.stride[0] * row, g.stride[1] * _IMAGES),
            )
            found.append(Offsets(back.pointers, offsets[entries].int(), entries.int(), (phase[0], phase[1]), sizes))
        return found


# In place of a shift: the tap reaches none of these inputs.
_NONE = -(2**31)


def _table(shifts: dict[int, int], taps: int) -> Tensor:
    return torch.tensor([shifts.get(tap, _NONE) for tap in range(taps)])


def _counted(rows: Tensor, count: int) -> Tensor:
    """Return pointers for sorted rows."""
    counts: Sequence[int] = torch.bincount(rows, minlength=count).tolist()
    pointers = torch.zeros(count + 1, dtype=torch.int32)
    pointers[1:] = torch.tensor(counts).cumsum(0)
    return pointers
