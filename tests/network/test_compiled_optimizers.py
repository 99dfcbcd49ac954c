"""A compiled `optimizer.step` is compiled as often as without masks, and keeps zeros and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from lightning_sparse.network import SparseNetwork
from lightning_sparse.topology.recipes import SPARSE_MOMENTUM


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def train(make: Callable[..., Optimizer], *, sparse: bool, rewires: bool = False) -> tuple[list[int], SparseNetwork]:
    """Return how many graphs were compiled after each step, and the network."""
    torch.manual_seed(0)
    model, graphs, counts = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), [], []
    network, optimizer = SparseNetwork(model, density=0.3), make(model.parameters())
    if sparse:
        network.attach(optimizer)

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    step = torch.compile(optimizer.step, backend=backend)
    for number in range(8):
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().mean().backward()
        step()
        counts.append(len(graphs))
        if rewires and number == 4:
            network.rewire(SPARSE_MOMENTUM, 0.5)
    return counts, network


KINDS = {
    "SGD": partial(SGD, lr=0.05, momentum=0.9),
    "SGD without momentum": partial(SGD, lr=0.05),
    "AdamW": partial(AdamW, lr=0.01),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_step_is_compiled_as_often_as_without_masks(kind: str) -> None:
    dense, _ = train(KINDS[kind], sparse=False)
    sparse, network = train(KINDS[kind], sparse=True, rewires=True)
    assert sparse[-1] == sparse[3] > 0
    assert sparse[-1] <= dense[-1] + 1
    assert network.steps == 8
    for name, mask in network.masks.items():
        assert not network.model.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_not_followed_leaves_no_zeros(kind: str) -> None:
    _, network = train(KINDS[kind], sparse=False)
    assert network.steps == 0
    assert any(network.model.get_parameter(name)[~mask].any() for name, mask in network.masks.items())


def test_of_several_compiled_optimizers_none_is_compiled_again() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    network = SparseNetwork(model, density=0.3, seed=0)
    optimizers = [SGD(model[0].parameters(), lr=0.05), AdamW(model[2].parameters(), lr=0.01)]
    for optimizer in optimizers:
        network.attach(optimizer)
    steps = [torch.compile(optimizer.step, backend="eager") for optimizer in optimizers]

    def train_for(number: int) -> None:
        for _ in range(number):
            model.zero_grad()
            model(torch.randn(16, 8)).square().mean().backward()
            for step in steps:
                step()

    with torch._dynamo.config.patch(error_on_recompile=True):  # type: ignore[no-untyped-call]  # of some versions
        train_for(1)
    train_for(3)
    with torch._dynamo.config.patch(error_on_recompile=True):  # type: ignore[no-untyped-call]  # of some versions
        train_for(3)
    assert network.steps == 7
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in network.masks.items())
