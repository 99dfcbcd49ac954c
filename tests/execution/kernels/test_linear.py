"""Sparse products of feature-major matrices, for every instruction set, against the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sparse_rows import filled, needs_kernels, random, reference, runnable, sparse_rows
from torch.testing import assert_close

from lightning_sparse.execution.kernels import kernels, sizes_of

pytestmark = needs_kernels

# Numbers of entries of each row: none, one, every remainder of four, all.
COUNTS = [0, 1, 2, 3, 4, 5, 6, 7, 0, 13, 40, 40, 0]
WIDTH = 40
# Every number of vectors in a strip, whatever their width, and several strips.
EXAMPLES = [16, 32, 48, 64, 112, 128, 176, 240, 256, 304, 528]


def product(variant: str, examples: int, *, relu: bool, bias: bool, threads: int = 1) -> torch.Tensor:
    rows = sparse_rows(COUNTS, WIDTH)
    outputs = filled(len(COUNTS), examples)
    offset = random(len(COUNTS), seed=2) if bias else None
    sizes = sizes_of(len(COUNTS), examples, threads, relu)
    inputs = random(WIDTH, examples)
    kernels(variant)("sparse_product", rows.pointers, rows.columns, rows.values, inputs, offset, outputs, sizes=sizes)
    return outputs


def sampled(variant: str, examples: int, threads: int = 1) -> torch.Tensor:
    rows = sparse_rows(COUNTS, WIDTH)
    gradients = filled(sum(COUNTS))
    sizes = sizes_of(len(COUNTS), examples, threads, 0)
    errors, inputs = random(len(COUNTS), examples, seed=3), random(WIDTH, examples)
    kernels(variant)("sampled_product", rows.pointers, rows.columns, errors, inputs, gradients, sizes=sizes)
    return gradients


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("variant", runnable())
def test_a_product_is_that_of_the_definition(variant: str, examples: int) -> None:
    for options in ({"relu": False, "bias": True}, {"relu": True, "bias": False}):
        assert_close(
            product(variant, examples, **options), product("reference", examples, **options), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("variant", runnable())
def test_a_sampled_product_is_that_of_the_definition(variant: str, examples: int) -> None:
    assert_close(sampled(variant, examples), sampled("reference", examples), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("variant", runnable())
def test_any_number_of_threads_gives_the_same_bits(variant: str) -> None:
    alone, expected = product(variant, 176, relu=True, bias=True), sampled(variant, 176)
    for threads in (2, 3, 8):
        for _ in range(5):
            assert torch.equal(product(variant, 176, relu=True, bias=True, threads=threads), alone)
            assert torch.equal(sampled(variant, 176, threads), expected)


def test_the_reference_is_what_pytorch_computes() -> None:
    rows = sparse_rows(COUNTS, WIDTH)
    dense = torch.zeros(len(COUNTS), WIDTH)
    row = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
    dense[row, rows.columns.long()] = rows.values
    inputs, bias = random(WIDTH, 32), random(len(COUNTS), seed=2)
    assert_close(product("reference", 32, relu=True, bias=True), (dense @ inputs + bias[:, None]).relu())
    errors = random(len(COUNTS), 32, seed=3)
    assert_close(sampled("reference", 32), (errors @ inputs.T)[row, rows.columns.long()])


@pytest.mark.parametrize("variant", [*runnable(), "reference"])
def test_errors_pass_a_relu_where_its_outputs_are_above_zero_and_everywhere_without_one(variant: str) -> None:
    outputs, sizes = random(5, 48).relu(), sizes_of(5, 48, 1)
    before = random(5, 48, seed=3)
    for of_relu in (outputs, None):
        errors, sums = before.clone(), filled(5)
        kernels(variant)("relu_errors", errors, of_relu, sums, sizes=sizes)
        expected = before * (outputs > 0) if of_relu is not None else before
        assert torch.equal(errors, expected)
        assert_close(sums, expected.sum(1))


@pytest.mark.parametrize("variant", [*runnable(), "reference"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.0])
def test_numbers_that_are_not_finite_come_out_as_from_pytorch(variant: str, value: float) -> None:
    rows = sparse_rows([1, 1], 2)
    inputs = torch.full((2, 16), value)
    outputs, sizes = filled(2, 16), sizes_of(2, 16, 1, 1)
    kernels(variant)("sparse_product", rows.pointers, rows.columns, rows.values, inputs, None, outputs, sizes=sizes)
    expected = (rows.values[:, None] * inputs[rows.columns.long()]).relu()
    assert torch.equal(outputs.isnan(), expected.isnan())
    assert torch.equal(outputs.nan_to_num(7), expected.nan_to_num(7))


def test_a_wrong_kernel_would_be_seen() -> None:
    def differs(**change: Any) -> bool:
        right = product("reference", 32, relu=True, bias=True)
        return not torch.allclose(product("reference", 32, **{"relu": True, "bias": True, **change}), right)

    assert differs(relu=False)
    assert differs(bias=False)
    assert reference().variant == "reference"
