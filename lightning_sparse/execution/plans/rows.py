"""Compressed rows of masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_sparse.validation.errors import InvalidValueError

# Kernels count in 32 bits.
MOST_ENTRIES = 2**31 - 1


@dataclass(frozen=True)
class Rows:
    """Entries of a sparse matrix, row after row, the columns of a row in rising order.

    Attributes:
        pointers: Shape `(rows + 1,)`, int32: the entries of row i are those from `pointers[i]` to `pointers[i + 1]`.
        columns: Shape `(entries,)`, int32: the column of each entry.
        order: Shape `(entries,)`, int32: where the value of each entry is, in the flat weight or, of transposed rows,
            among the values of the rows that were transposed.
    """

    pointers: Tensor
    columns: Tensor
    order: Tensor

    @property
    def rows(self) -> Tensor:
        """The row of each entry, shape `(entries,)`, int64."""
        counts = self.pointers.diff()
        return torch.repeat_interleave(torch.arange(len(counts)), counts)


def rows_of(mask: Tensor) -> Rows:
    """Return the compressed rows of a mask; all dimensions but the first are those of a row.

    Args:
        mask: Mask, bool, shape `(rows, ...)`, on the CPU.

    Raises:
        ValueError: If the weight has more elements than 32 bits can count.

    >>> rows = rows_of(torch.tensor([[True, False, True], [False, False, False], [False, True, False]]))
    >>> rows.pointers.tolist(), rows.columns.tolist(), rows.order.tolist()
    ([0, 2, 2, 3], [0, 2, 1], [0, 2, 7])
    """
    if mask.numel() > MOST_ENTRIES:
        raise InvalidValueError(
            expected=f"a weight of at most {MOST_ENTRIES} elements, which kernels can count",
            got=str(mask.numel()),
            cure="leave it to PyTorch",
        )
    flat = mask.reshape(len(mask), -1)
    places = flat.reshape(-1).nonzero().view(-1)
    return Rows(_pointers(flat.sum(1)), (places % flat.shape[1]).int(), places.int())


def transposed(rows: Rows, columns: int) -> Rows:
    """Return the rows of the transposed matrix, whose values are those of the given rows in another order.

    Args:
        rows: The rows.
        columns: Number of columns of the matrix.

    >>> back = transposed(rows_of(torch.tensor([[True, False, True], [True, False, False]])), 3)
    >>> back.pointers.tolist(), back.columns.tolist(), back.order.tolist()
    ([0, 2, 2, 3], [0, 1, 0], [0, 2, 1])
    """
    order = rows.columns.argsort(stable=True)
    counts = torch.bincount(rows.columns, minlength=columns)
    return Rows(_pointers(counts), rows.rows[order].int(), order.int())


def _pointers(counts: Tensor) -> Tensor:
    pointers = torch.zeros(len(counts) + 1, dtype=torch.int32)
    pointers[1:] = counts.cumsum(0)
    return pointers
