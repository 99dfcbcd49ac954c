"""Effective gradient flow agrees with the slow version of its definition."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slow_gradient_flow import slow_effective_gradient_flow, slow_gradient_norm
from torch import Tensor

from lightning_sparse.analysis import effective_gradient_flow, gradient_norm

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


@given(layers(), st.sampled_from(ORDERS), st.booleans())
def test_it_is_the_slow_definition(drawn: tuple[list[Tensor], list[Tensor]], p: float, per_active: bool) -> None:
    gradients, masks = drawn
    arrays = [gradient.double().numpy() for gradient in gradients]
    kept = [mask.double().numpy() for mask in masks]
    normalize: Any = "active" if per_active else None
    found = effective_gradient_flow(gradients, masks, p, normalize).item()
    assert found == pytest.approx(slow_effective_gradient_flow(arrays, kept, p, per_active=per_active), rel=1e-5)
    assert gradient_norm(gradients, p).item() == pytest.approx(slow_gradient_norm(arrays, p), rel=1e-5)
