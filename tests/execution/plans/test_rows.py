"""Compressed rows hold every active weight once, in order, and so do their transposed rows."""

from __future__ import annotations

import pytest
import torch

from lightning_sparse.execution.plans import rows as module
from lightning_sparse.execution.plans import rows_of, transposed
from lightning_sparse.validation.errors import InvalidValueError


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (4, 3, 2, 2), (6, 0)])
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_rows_and_transposed_rows_hold_the_values_of_a_weight(shape: tuple[int, ...], density: float) -> None:
    weight = torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
    rows, expected = rows_of(mask), (weight * mask).reshape(shape[0], -1)
    values = weight.reshape(-1)[rows.order.long()]
    dense = torch.zeros_like(expected)
    dense[rows.rows, rows.columns.long()] = values
    assert torch.equal(dense, expected)
    assert int(rows.pointers[-1]) == int(mask.sum()) == len(values)
    back = transposed(rows, expected.shape[1])
    turned = torch.zeros_like(expected.T)
    turned[back.rows, back.columns.long()] = values[back.order.long()]
    assert torch.equal(turned, expected.T)
    for each in (rows, back):
        for first, end in zip(each.pointers[:-1].tolist(), each.pointers[1:].tolist(), strict=True):
            assert each.columns[first:end].tolist() == sorted(set(each.columns[first:end].tolist()))


def test_a_weight_that_32_bits_cannot_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENTRIES", 11)
    with pytest.raises(InvalidValueError, match="at most 11 elements"):
        rows_of(torch.ones(3, 4, dtype=torch.bool))
    rows_of(torch.ones(1, 11, dtype=torch.bool))
