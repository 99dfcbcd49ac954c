"""Steps on maps in lanes, `[groups of 16 images, channels, rows, columns, 16]`, with one halo for a whole chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_sparse.execution.chains.chain import Pass, Wanted
from lightning_sparse.execution.kernels import sizes_of

Found: TypeAlias = tuple[Sequence[Tensor | None], Sequence[Tensor | None]]


def lanes(batch: Pass, channels: int, size: tuple[int, int], halo: int) -> Tensor:
    """Return a buffer for maps.

    Args:
        batch: The pass.
        channels: Number of channels.
        size: Rows and columns without halo.
        halo: Halo.
    """
    return batch.lease.take(-(-batch.images // 16), channels, size[0] + 2 * halo, size[1] + 2 * halo, 16)


def size_of(maps: Tensor, halo: int) -> tuple[int, int]:
    """Return rows and columns of maps without their halo."""
    return maps.shape[2] - 2 * halo, maps.shape[3] - 2 * halo


class EnterMaps:
    """Go from `[batch, channels, rows, columns]` into lanes.

    Args:
        halo: Halo of the maps.
    """

    parameters: Sequence[nn.Parameter] = ()

    def __init__(self, halo: int) -> None:
        self._halo = halo

    def forward(self, inputs: Sequence[Tensor], batch: Pass) -> tuple[Tensor, Any]:
        """Return the maps in lanes."""
        given = inputs[0].contiguous()
        output = lanes(batch, given.shape[1], (given.shape[2], given.shape[3]), self._halo)
        sizes = sizes_of(*given.shape, self._halo)
        batch.run("to_lanes", given, output, sizes=sizes)
        return output, sizes

    def backward(
        self, errors: Tensor, inputs: Sequence[Tensor], output: Tensor, kept: Any, batch: Pass, wanted: Wanted
    ) -> Found:
        """Return the errors of the maps."""
        if not wanted.inputs[0]:
            return [None], []
        found = torch.empty(inputs[0].shape)
        batch.run("from_lanes", errors, found, sizes=kept)
        return [found], []


class LeaveMaps:
    """Come back to `[batch, channels, rows, columns]`.

    Args:
        halo: Halo of the maps.
    """

    parameters: Sequence[nn.Parameter] = ()

    def __init__(self, halo: int) -> None:
        self._halo = halo

    def forward(self, inputs: Sequence[Tensor], batch: Pass) -> tuple[Tensor, Any]:
        """Return the maps, in memory of their own."""
        (given,) = inputs
        output = torch.empty(batch.images, given.shape[1], *size_of(given, self._halo))
        sizes = sizes_of(*output.shape, self._halo)
        batch.run("from_lanes", given, output, sizes=sizes)
        return output, sizes

    def backward(
        self, errors: Tensor, inputs: Sequence[Tensor], output: Tensor, kept: Any, batch: Pass, wanted: Wanted
    ) -> Found:
        """Return the errors in lanes."""
        found = batch.lease.take(*inputs[0].shape)
        batch.run("to_lanes", errors, found, sizes=kept)
        return [found], []


class AverageMaps:
    """Come back to `[batch, channels]` by the mean of each map.

    Args:
        halo: Halo of the maps.
    """

    parameters: Sequence[nn.Parameter] = ()

    def __init__(self, halo: int) -> None:
        self._halo = halo

    def _inner(self, maps: Tensor) -> Tensor:
        end = -self._halo or None
        return maps[:, :, self._halo : end, self._halo : end]

    def forward(self, inputs: Sequence[Tensor], batch: Pass) -> tuple[Tensor, Any]:
        """Return the means."""
        means = self._inner(inputs[0]).mean((2, 3)).transpose(1, 2)
        return means.reshape(-1, means.shape[2])[: batch.images].clone(), None

    def backward(
        self, errors: Tensor, inputs: Sequence[Tensor], output: Tensor, kept: Any, batch: Pass, wanted: Wanted
    ) -> Found:
        """Return the errors in lanes, the same all over each map."""
        found = batch.lease.take(*inputs[0].shape)
        inner = self._inner(found)
        each = errors.new_zeros(len(found) * 16, errors.shape[1])
        each[: batch.images] = errors / (inner.shape[2] * inner.shape[3])
        inner.copy_(each.view(len(found), 16, -1).transpose(1, 2)[:, :, None, None].expand_as(inner))
        return [found], []


class FlattenMaps:
    """Go from maps in lanes to the feature-major layout, in the order of `flatten(1)`: channel, row, column.

    Args:
        halo: Halo of the maps.
    """

    parameters: Sequence[nn.Parameter] = ()

    def __init__(self, halo: int) -> None:
        self._halo = halo

    def _inner(self, maps: Tensor) -> Tensor:
        """Return the maps without halo, `[channels, rows, columns, groups, 16]`."""
        end = -self._halo or None
        return maps[:, :, self._halo : end, self._halo : end].permute(1, 2, 3, 0, 4)

    def forward(self, inputs: Sequence[Tensor], batch: Pass) -> tuple[Tensor, Any]:
        """Return the features."""
        inner = self._inner(inputs[0])
        output = batch.lease.take(inner.shape[:3].numel(), inner.shape[3] * 16)
        output.view(inner.shape).copy_(inner)
        return output, None

    def backward(
        self, errors: Tensor, inputs: Sequence[Tensor], output: Tensor, kept: Any, batch: Pass, wanted: Wanted
    ) -> Found:
        """Return the errors in lanes."""
        found = batch.lease.take(*inputs[0].shape)
        inner = self._inner(found)
        inner.copy_(errors.view(inner.shape))
        return [found], []
