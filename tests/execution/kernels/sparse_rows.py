"""Compressed rows to compute with, and every variant of the kernels that this machine can run."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lightning_sparse.execution.kernels import Kernels, kernels, why_unavailable
from lightning_sparse.execution.kernels.build import variants
from lightning_sparse.execution.kernels.library import best_variant

_ORDER = ("baseline", "avx2", "avx512")

needs_kernels = pytest.mark.skipif(why_unavailable() is not None, reason=f"no kernels: {why_unavailable()}")


def runnable() -> list[str]:
    """Return the variants whose instructions this machine has: the best one and those before it."""
    return [each for each in _ORDER[: _ORDER.index(best_variant()) + 1] if each in variants()]


def reference() -> Kernels:
    return kernels("reference")


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix in compressed rows."""

    pointers: Tensor
    columns: Tensor
    values: Tensor


def sparse_rows(counts: list[int], width: int, seed: int = 0) -> SparseRows:
    """Return rows with these numbers of entries, at random columns in rising order, with random values."""
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randperm(width, generator=generator)[:count].sort().values for count in counts]
    pointers = torch.tensor([0, *counts]).cumsum(0)
    values = torch.randn(int(pointers[-1]), generator=generator)
    return SparseRows(pointers.int(), torch.cat(columns).int(), values)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(*shape: int) -> Tensor:
    """Return NaN, so that what a kernel doesn't write, or reads beyond its input, is seen."""
    return torch.full(shape, float("nan"))
