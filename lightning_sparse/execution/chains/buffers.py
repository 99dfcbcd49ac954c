"""Memory of a chain that is used again and again: fresh memory costs more than what small kernels compute in it."""

from __future__ import annotations

import torch
from torch import Tensor


class Buffers:
    """Buffers that nobody uses at present, by shape.

    A buffer is zero when it is made, and kernels never write to halos: these stay zero for ever. What else is in a
    buffer is left from its last use.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[int, ...], list[Tensor]] = {}

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Return a buffer, float32 on the CPU, that nobody else has until it is given back."""
        free = self._free.get(shape)
        # The one that was given back last: it is in the cache, most likely.
        if free:
            return free.pop()
        with torch.inference_mode(False):  # it may be used in training, too
            return torch.zeros(shape)

    def give(self, buffer: Tensor) -> None:
        """Take a buffer back."""
        self._free.setdefault(tuple(buffer.shape), []).append(buffer)

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy needs: it makes buffers of its own."""
        return {"_free": {}}

    def __len__(self) -> int:
        return sum(map(len, self._free.values()))


class Lease:
    """The buffers of one forward pass and its backward pass, which go back when nothing refers to the lease any more.

    Args:
        buffers: Pool that they come from and go back to.
    """

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._taken: dict[int, Tensor] = {}

    def take(self, *shape: int) -> Tensor:
        """Return a buffer."""
        buffer = self._buffers.take(shape)
        self._taken[id(buffer)] = buffer
        return buffer

    def give(self, buffer: Tensor) -> None:
        """Give one of the lease's buffers back before its end; any other tensor is left alone."""
        if self._taken.pop(id(buffer), None) is not None:
            self._buffers.give(buffer)

    def __del__(self) -> None:
        for buffer in self._taken.values():
            self._buffers.give(buffer)
