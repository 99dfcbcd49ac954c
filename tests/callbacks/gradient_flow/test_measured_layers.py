"""Beside sparse training, what is masked is measured, without being told twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import FEATURES, At, TinyModule, fit
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_sparse import GradientFlowCallback, SparseMomentumCallback

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")


class Dense(nn.Module):
    """A linear layer of a library's own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight.T


class Mixed(TinyModule):
    """Has layers of a library's own, recurrent and ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.recurrent, self.usual = Dense(FEATURES, 8), nn.LSTM(8, 8), nn.Linear(8, 8)
        self.net = nn.Sequential(self.own, nn.ReLU(), Dense(8, 8), nn.ReLU(), self.usual, nn.Linear(8, 4))

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch) + self.recurrent(self.own(batch[0]))[0].square().mean()


USUAL = {"net.4.weight", "net.5.weight"}


def measured(flow: GradientFlowCallback, *callbacks: Any, module: TinyModule | None = None, **options: Any) -> set[str]:
    fit(flow, *callbacks, module=Mixed() if module is None else module, max_epochs=2, **options)
    assert len(flow.history) == 2
    return {name for record in flow.history for name in record.layers}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("batches", [None, 1])
@pytest.mark.parametrize(
    "choice",
    [
        {"include": "Dense"},
        {"include": ["Dense", nn.LSTM]},
        {"include": nn.Linear, "exclude": "usual"},
        {"exclude": "usual"},
    ],
    ids=str,
)
def test_what_is_masked_is_measured(choice: dict[str, Any], batches: Any, first: bool) -> None:
    sparse = SparseMomentumCallback(density=0.5, **choice)
    flow = GradientFlowCallback(batches=batches and [(torch.randn(4, FEATURES), torch.tensor([0, 1, 2, 3]))])
    callbacks = (flow, sparse) if first else (sparse, flow)
    fit(*callbacks, module=Mixed(), max_epochs=2)
    masked = set(sparse.network.masks)  # type: ignore[union-attr]  # after a fit
    assert {name for record in flow.history for name in record.layers} == masked
    for record in flow.history:
        assert {name: layer["active"] for name, layer in record.layers.items()} == {
            name: layer.active
            for name, layer in sparse.network.layers.items()  # type: ignore[union-attr]  # as above
        } or record.epoch == 0


def test_without_a_sparse_callback_and_beside_one_without_a_choice_the_usual_layers_are_measured() -> None:
    assert measured(GradientFlowCallback()) == USUAL
    assert measured(GradientFlowCallback(), SparseMomentumCallback(density=0.5)) == USUAL


def test_a_choice_of_its_own_wins() -> None:
    sparse = SparseMomentumCallback(density=0.5, include="Dense")
    assert measured(GradientFlowCallback(include="usual"), sparse) == {"net.4.weight"}
    sparse = SparseMomentumCallback(density=0.5, include="Dense")
    assert measured(GradientFlowCallback(exclude="usual"), sparse) == {"net.5.weight"}


def test_what_pytorch_prunes_is_measured_beside_what_is_masked() -> None:
    module = Mixed()
    prune.random_unstructured(module.usual, "weight", amount=0.5)  # type: ignore[no-untyped-call]  # PyTorch's
    sparse = SparseMomentumCallback(density=0.5, include="Dense")
    flow = GradientFlowCallback()
    assert measured(flow, sparse, module=module) == {"net.0.weight", "net.2.weight", "net.4.weight"}
    assert flow.history[-1].layers["net.4.weight"]["active"] == 32
    assert flow.history[-1].total == {}


def test_layers_that_stay_dense_in_the_budget_are_measured_as_dense() -> None:
    sparse = SparseMomentumCallback(density=0.5, include="Dense", dense="own")
    flow = GradientFlowCallback()
    assert measured(flow, sparse) == {"net.0.weight", "net.2.weight"}
    assert flow.history[-1].layers["net.0.weight"]["active"] == 48


def test_masked_layers_that_are_frozen_later_are_left_out() -> None:
    def freeze(run: Any, module: Any) -> None:
        module.own.weight.requires_grad = run.current_epoch == 0

    flow, sparse = GradientFlowCallback(), SparseMomentumCallback(density=0.5, include="Dense")
    measured(flow, sparse, At("on_train_epoch_start", freeze))
    assert [set(record.layers) for record in flow.history] == [{"net.0.weight", "net.2.weight"}, {"net.2.weight"}]
