"""Of what is multiplied, kernels are what weights become before they meet an input."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_sparse.selection.kernel_trace import KernelTrace, density, fills_zeros


def test_zeros_but_for_rounding_count_as_zeros_and_nan_does_not() -> None:
    assert density(torch.tensor([0.0, 1e-9, 1.0, -2.0])) == 0.5
    assert density(torch.tensor([0.0, 1e-3, 1.0, -2.0])) == 0.75
    assert density(torch.tensor([0.0, float("nan")])) == 1.0
    assert density(torch.zeros(4)) == density(torch.empty(0)) == 0.0


@pytest.mark.parametrize(
    ("densities", "fills"),
    [([], False), ([0.5], False), ([0.75], False), ([0.76], True), ([1.0, 0.9], True), ([1.0, 0.5], False)],
)
def test_zeros_are_filled_where_every_kernel_lacks_most_of_them(densities: list[float], fills: bool) -> None:
    assert fills_zeros(densities, stored=0.5) is fills


@pytest.mark.parametrize(("has_gradient", "recorded"), [(True, []), (False, [0.5])])
def test_what_has_no_gradient_is_an_input_only_where_inputs_may_have_none(
    has_gradient: bool, recorded: list[float]
) -> None:
    weight, vector = nn.Parameter(torch.eye(2)), torch.ones(2)
    with KernelTrace(weight, [weight], has_gradient=has_gradient) as trace:
        torch.matmul(vector, weight)
    assert trace.densities == recorded


def test_where_inputs_may_have_no_gradient_a_smaller_factor_of_a_plain_product_is_no_kernel() -> None:
    weight, vector = nn.Parameter(torch.eye(2)), torch.ones(2)
    with KernelTrace(weight, [weight], has_gradient=False) as trace:
        scale = torch.matmul(vector, weight * 1).sum() + weight.sum(1) @ vector
        functional.linear(vector, weight[:1] / scale)
    assert trace.densities == [0.5, 0.5]


def test_what_depends_on_an_input_is_no_kernel() -> None:
    weight, inputs = nn.Parameter(torch.eye(2)), torch.ones(2, 2, requires_grad=True)
    with KernelTrace(weight, [weight], has_gradient=True) as trace:
        outputs = inputs @ weight
        outputs @ outputs.t()
        torch.einsum("ab,bc->ac", inputs, weight.t() + 1)
    assert trace.densities == [0.5, 1.0]
