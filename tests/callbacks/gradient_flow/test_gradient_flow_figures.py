"""Figures of gradient flow show the norms that their captions name."""

from __future__ import annotations

import pytest

from lightning_sparse.callbacks.gradient_flow.figures import layers
from lightning_sparse.callbacks.gradient_flow.records import GradientFlowRecord


@pytest.mark.parametrize("orders", [("l1", "l2"), ("l2", "l1"), ("l2", "l10"), ("linf", "l10"), ("l2", "l1.5")])
def test_layers_are_drawn_by_the_largest_order_wherever_it_stands(orders: tuple[str, str]) -> None:
    values = {order: float(order.removeprefix("l")) for order in orders}
    norms = {order: 3.0 if value == max(values.values()) else 7.0 for order, value in values.items()}
    records = [GradientFlowRecord(epoch, epoch, None, norms, norms, {"fc": norms}, {}) for epoch in range(2)]
    (line,) = layers(records).axes[0].lines
    assert list(line.get_ydata()) == [3.0, 3.0]  # type: ignore[call-overload]  # an array
