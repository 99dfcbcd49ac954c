"""Effective gradient flow is what its definition says, whatever lies under the masks."""

from __future__ import annotations

from math import inf, nan, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import lightning_sparse
from lightning_sparse.analysis import effective_gradient_flow, gradient_flow, gradient_norm
from lightning_sparse.analysis.gradient_flow import active_counts, check_orders

ORDERS = [1, 1.5, 2, 3, inf]


@st.composite
def layers(draw: st.DrawFn) -> tuple[list[Tensor], list[Tensor]]:
    """Draw gradients of some layers, and their masks."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shapes = draw(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=5))
    scales = [10.0 ** draw(st.integers(-6, 6)) for _ in shapes]
    gradients = [torch.randn(shape, generator=generator) * scale for shape, scale in zip(shapes, scales, strict=True)]
    masks = [torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) for shape in shapes]
    return gradients, masks


def test_the_worked_numbers() -> None:
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0, 2.0])]
    masks = [torch.tensor([1, 1]), torch.tensor([0, 1, 1])]
    assert effective_gradient_flow(gradients, masks, 1).item() == 5.5
    assert effective_gradient_flow(gradients, masks, 2).item() == pytest.approx((5 + sqrt(8)) / 2)
    assert effective_gradient_flow(gradients, masks, inf).item() == 3
    assert gradient_norm(gradients, 1).item() == 12
    assert gradient_norm(gradients, 2).item() == pytest.approx(sqrt(34))
    assert effective_gradient_flow(gradients, masks, 1, "active").item() == (7 / 2 + 4 / 2) / 2


@given(layers())
def test_in_a_dense_network_the_1_norm_is_shared_out_over_the_layers(drawn: tuple[list[Tensor], list[Tensor]]) -> None:
    gradients, _ = drawn
    shared = gradient_norm(gradients, 1).item() / len(gradients)
    assert effective_gradient_flow(gradients, None, 1).item() == pytest.approx(shared, rel=1e-5)
    assert effective_gradient_flow(gradients, [torch.ones_like(each) for each in gradients], 1).item() == pytest.approx(
        shared, rel=1e-5
    )


@given(layers(), st.sampled_from(ORDERS), st.sampled_from([0.0, 1e30, inf, nan]))
def test_gradients_of_inactive_weights_do_not_matter(
    drawn: tuple[list[Tensor], list[Tensor]], p: float, value: float
) -> None:
    gradients, masks = drawn
    others = [gradient.masked_fill(~mask, value) for gradient, mask in zip(gradients, masks, strict=True)]
    expected = effective_gradient_flow(gradients, masks, p)
    for kept in (masks, [mask.float() for mask in masks]):
        assert torch.equal(effective_gradient_flow(others, kept, p), expected)


@given(layers(), st.sampled_from(ORDERS), st.integers(0, 1000))
def test_the_order_of_weights_inside_a_layer_does_not_matter(
    drawn: tuple[list[Tensor], list[Tensor]], p: float, seed: int
) -> None:
    gradients, masks = drawn
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(gradient.numel(), generator=generator) for gradient in gradients]
    shuffled = [gradient.reshape(-1)[order] for gradient, order in zip(gradients, orders, strict=True)]
    kept = [mask.reshape(-1)[order] for mask, order in zip(masks, orders, strict=True)]
    flow = effective_gradient_flow(shuffled, kept, p).item()
    assert flow == pytest.approx(effective_gradient_flow(gradients, masks, p).item(), rel=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
def test_large_layers_are_computed_in_parts_and_on_devices_at_once_to_the_same_norms(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient_flow, "_CHUNK", chunk)
    gradient, mask = torch.randn(5, 8), torch.rand(5, 8) < 0.3
    gradient[~mask] = nan
    parts = gradient_flow._in_chunks(gradient, mask, ORDERS, torch.float32)
    torch.testing.assert_close(parts[2], gradient[mask].norm())
    other = torch.randn(4)
    for dtype in (torch.float32, torch.bfloat16):  # of one type, and of several
        layers = [(gradient, mask), (other.to(dtype), None)]
        once = gradient_flow._at_once(layers, ORDERS, torch.float32, torch.device("cpu"))
        expected = gradient_flow._in_chunks(other.to(dtype), None, ORDERS, torch.float32)
        torch.testing.assert_close(list(once), [parts, expected])


def test_a_layer_that_the_gradient_does_not_reach_contributes_zero_and_counts() -> None:
    reached = torch.tensor([3.0, 4.0])
    assert effective_gradient_flow([reached, None]).item() == 2.5
    assert effective_gradient_flow([None, None]).item() == 0
    assert gradient_norm([reached, None]).item() == 5
    assert effective_gradient_flow([reached, reached], [torch.zeros(2), None]).item() == 2.5
    assert effective_gradient_flow([reached, reached], [torch.zeros(2), None], normalize="active").item() == 1.25


@pytest.mark.parametrize("value", [inf, nan])
def test_an_active_weight_without_a_finite_gradient_shows(value: float) -> None:
    gradients, masks = [torch.tensor([1.0, value]), torch.ones(2)], [torch.tensor([1, 1]), None]
    assert not effective_gradient_flow(gradients, masks, 2).isfinite()
    assert not effective_gradient_flow(gradients, masks, 1).isfinite()


def test_names_pair_gradients_with_masks_in_any_order() -> None:
    gradients = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0, 2.0])}
    masks = {"b": torch.tensor([0, 1]), "a": torch.tensor([1, 0])}
    assert effective_gradient_flow(gradients, masks, 1).item() == 2.5
    assert effective_gradient_flow(gradients, {"b": torch.tensor([0, 1])}, 1).item() == 4.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_16_bit_gradients_are_summed_in_32_bits(dtype: torch.dtype) -> None:
    gradient = torch.ones(100_000, dtype=dtype)
    assert effective_gradient_flow([gradient], None, 1).item() == 100_000
    assert effective_gradient_flow([gradient], [torch.ones(100_000)], 1).dtype == torch.float32


def test_64_bit_gradients_keep_their_precision() -> None:
    gradient = torch.tensor([1.0, 1e-12], dtype=torch.float64)
    assert effective_gradient_flow([gradient], None, 1).item() == 1 + 1e-12


def test_gradients_that_are_not_contiguous_go_with_their_masks() -> None:
    gradient = torch.arange(6.0).view(2, 3).t()
    mask = torch.tensor([[True, False], [False, False], [False, True]])
    assert effective_gradient_flow([gradient], [mask], 1).item() == 0 + 5
    last = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    kept = torch.rand(4, 3, 2, 2) < 0.5
    torch.testing.assert_close(effective_gradient_flow([last], [kept], 1), (last * kept).abs().sum())


def test_nothing_is_changed_or_recorded_for_autograd() -> None:
    gradient = torch.randn(3, requires_grad=True)
    before = gradient.detach().clone()
    assert not effective_gradient_flow([gradient], [torch.tensor([1, 0, 1])]).requires_grad
    assert torch.equal(gradient, before)


def test_active_weights_are_counted_by_mask_or_size() -> None:
    gradients = [torch.ones(2, 3), torch.ones(4), None]
    assert active_counts(gradients, [None, torch.tensor([1, 0, 0, 1]), None]).tolist() == [6, 2, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), r"at least one layer; got none. Cure"),
        (([torch.ones(2)], [torch.ones(3)]), r"shape \(2,\) for layer 0; got \(3,\). Cure"),
        (([torch.ones(2)], []), r"one mask per gradient.*got 1 gradients in a list, 0 masks in a list. Cure"),
        (({"a": torch.ones(2)}, [torch.ones(2)]), r"both by name; got 1 gradients in a dict, 1 masks in a list"),
        (({"a": torch.ones(2)}, {"b": torch.ones(2)}), r"masks of \['a'\]; got one of 'b'. Cure"),
        (([torch.ones(2)], None, 0.5), r"1 <= p <= inf; got 0.5. Cure"),
        (([torch.ones(2)], None, nan), r"1 <= p <= inf; got nan. Cure"),
        (([torch.ones(2)], None, True), r"1 <= p <= inf; got True. Cure"),
        (([torch.ones(2)], None, 2, "mean"), r"None or 'active'; got 'mean'. Cure"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        effective_gradient_flow(*arguments)


def test_an_empty_list_of_orders_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least one order; got none\. Cure"):
        check_orders(())


def test_it_is_at_the_top_of_the_package() -> None:
    assert lightning_sparse.effective_gradient_flow is effective_gradient_flow
    assert np.isfinite(effective_gradient_flow([torch.ones(2)]).item())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.int64])
def test_masks_of_any_type_say_only_what_is_active(dtype: torch.dtype) -> None:
    gradient, mask = torch.tensor([3.0, 4.0, inf]), torch.tensor([7, 0, 0], dtype=dtype)
    assert effective_gradient_flow([gradient], [mask], p=1).item() == 3
    assert effective_gradient_flow([gradient[:2]], [mask[:2]], p=2).item() == 3
