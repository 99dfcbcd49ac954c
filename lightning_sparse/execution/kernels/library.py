"""The compiled kernels, called on tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.execution.kernels.build import LIBRARY, digest, variants

# Numbers of arguments by kernel, `sizes` included. The sources have their contracts.
_ARGUMENTS = {
    "sparse_product": 7,
    "sampled_product": 6,
    "relu_errors": 4,
    "gather": 4,
    "scatter": 4,
    "to_features": 3,
    "from_features": 3,
    "to_lanes": 3,
    "from_lanes": 3,
    "convolve": 7,
    "correlate": 6,
    "moments": 3,
    "normalize": 6,
    "error_sums": 8,
    "normalize_errors": 10,
    "apply_mask": 3,
}
# What PyTorch calls the instruction sets that its own code uses here.
_CAPABILITIES = {"AVX512": "avx512", "AVX2": "avx2"}


class Kernels:
    """The kernels for one instruction set.

    Arguments are read and written in place and not checked: tensors must be on the CPU, contiguous,
    of the type that the kernel expects (float32, indices int32, bits uint8, sums of channels float64) and as large as
    `sizes` says.

    Args:
        library: The loaded library.
        variant: "baseline", "avx2", "avx512", or "reference" for the same in double precision, one by one.
    """

    def __init__(self, library: ctypes.CDLL, variant: str) -> None:
        self.variant = variant
        self._functions: dict[str, Callable[..., None]] = {}
        for name, count in _ARGUMENTS.items():
            function = getattr(library, f"{name}_{variant}")
            function.argtypes, function.restype = [ctypes.c_void_p] * count, None
            self._functions[name] = function

    def __call__(self, name: str, *arguments: Tensor | None, sizes: ctypes.Array[ctypes.c_int64]) -> None:
        """Run a kernel.

        Args:
            name: Name of the kernel.
            arguments: Its arguments in their order.
            sizes: Its sizes, from `sizes_of`.
        """
        self._functions[name](*[None if each is None else each.data_ptr() for each in arguments], sizes)


def sizes_of(*numbers: int) -> ctypes.Array[ctypes.c_int64]:
    """Return sizes as kernels take them."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def best_variant() -> str:
    """Return the instruction set of this machine's kernels: the widest one that PyTorch uses here, too."""
    wanted = _CAPABILITIES.get(torch.backends.cpu.get_cpu_capability(), "baseline")
    return wanted if wanted in variants() else "baseline"


def why_unavailable() -> str | None:
    """Return why there are no kernels here, in words for a sentence; None if there are."""
    found = _load()
    return found if isinstance(found, str) else None


def kernels(variant: str | None = None) -> Kernels:
    """Return the kernels for an instruction set.

    Args:
        variant: One of `variants()`, or "reference"; default: `best_variant()`.

    Raises:
        RuntimeError: If there are none, see `why_unavailable`.
    """
    return _kernels(variant or best_variant())


@lru_cache
def _kernels(variant: str) -> Kernels:
    found = _load()
    if isinstance(found, str):
        raise RuntimeError(f"Expected compiled kernels, got none: {found}.")
    return Kernels(found, variant)


@lru_cache
def _load() -> ctypes.CDLL | str:
    path = Path(__file__).parent / LIBRARY
    if not path.exists():
        return "the package was installed without a C compiler"
    try:
        library: Any = ctypes.CDLL(str(path))
        made_from = (ctypes.c_char * 16).in_dll(library, "kernels_digest").value.decode()
    except (OSError, ValueError) as error:
        return f"they can't be loaded ({error})"
    if made_from != digest():
        return "they were compiled from other sources; installing the package again compiles them"
    return library  # type: ignore[no-any-return]  # loaded by path
