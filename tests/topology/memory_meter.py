"""How much memory a piece of code has in use at its peak, PyTorch's and NumPy's together."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryMeter(TorchDispatchMode):
    """While active, follows every storage that an operator creates, until it is freed, and what Python and NumPy hold.

    Attributes:
        peak: The most bytes in use at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._before = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __enter__(self) -> MemoryMeter:
        super().__enter__()
        torch.zeros(1).add(1)  # the first operator of a process imports parts of PyTorch, which are not to be counted
        self.peak = 0
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._note()
        tracemalloc.stop()
        super().__exit__(kind, error, trace)

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self._note()
        result = operator(*args, **(kwargs or {}))
        # Views of what was there before, or of NumPy's memory, which tracemalloc sees, are no storage of their own.
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves([args, kwargs]) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:
                storage = leaf.untyped_storage()
                self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._note()
        return result

    def _note(self) -> None:
        self._storages = {key: entry for key, entry in self._storages.items() if not entry[0].expired()}
        in_torch = sum(size for _, size in self._storages.values())
        self.peak = max(self.peak, in_torch + tracemalloc.get_traced_memory()[1] - self._before)
        tracemalloc.reset_peak()
