"""How many steps of real gradients an inactive weight needs."""

from __future__ import annotations

from math import inf

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_sparse.execution.dense_window import decay_rates, dense_steps

rates = st.floats(0.02, 0.999)


@given(st.lists(rates, min_size=1, max_size=4))
def test_an_average_has_forgotten_99_percent_after_the_steps_and_not_before(decays: list[float]) -> None:
    steps = dense_steps(decays)
    slowest = max(decays)
    assert slowest**steps <= 0.01 * (1 + 1e-9)
    assert slowest ** (steps - 1) > 0.01 * (1 - 1e-9)


@pytest.mark.parametrize(("decays", "steps"), [([], 1), ([0.0], 1), ([0.9], 44), ([0.9, 0.99], 459), ([1.0], inf)])
def test_known_rates_need_known_steps(decays: list[float], steps: float) -> None:
    assert dense_steps(decays) == steps


def test_the_rates_are_those_of_all_averages_of_all_groups() -> None:
    weights = [torch.zeros(1), torch.zeros(1)]
    groups = [{"params": [weights[0]], "momentum": 0.5}, {"params": [weights[1]], "momentum": 0.95}]
    assert decay_rates(torch.optim.SGD(groups, lr=0.1)) == [0.5, 0.95]
    assert decay_rates(torch.optim.SGD(weights, lr=0.1)) == [0.9]
    assert decay_rates(torch.optim.Adam(weights)) == [0.9, 0.999]
    assert decay_rates(torch.optim.RMSprop(weights, alpha=0.98)) == [0.9, 0.98]
    assert decay_rates(torch.optim.Adagrad(weights)) is None
