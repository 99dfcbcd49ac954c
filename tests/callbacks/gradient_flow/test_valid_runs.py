"""A measurement never ends a run that trains without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.loggers import Logger
from tiny_training import CLASSES, FEATURES, At, Batch, ShufflingLoader, TinyModule, fit
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer, SparseAdam

from lightning_sparse import ClassSpecializationCallback, GradientFlowCallback, SparseMomentumCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:A module has been switched to.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*lazy.*:UserWarning"),
]
BATCH = next(iter(ShufflingLoader()))


class Gradual(BaseFinetuning):
    """Freezes all layers before training, and unfreezes one in each epoch from a given one on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.net, train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
        if epoch >= self.first:
            self.make_trainable(pl_module.net[3 if epoch == self.first else 0])


class Unfrozen(TinyModule):
    """Has a parameter that is trained from the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(CLASSES))

    def loss(self, batch: Batch) -> Tensor:
        return cross_entropy(self.net(batch[0]) + self.shift, batch[1])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("batches", [None, [BATCH]], ids=["steps", "fixed"])
def test_layers_that_are_unfrozen_gradually_are_measured_from_then_on(batches: Any, first: int) -> None:
    flow = GradientFlowCallback(batches=batches)
    run = fit(flow, Gradual(first), module=Unfrozen())
    assert run.global_step == 9
    layers = [set(record.layers) for record in flow.history]
    assert layers == [{"net.3.weight"}, {"net.0.weight", "net.3.weight"}, {"net.0.weight", "net.3.weight"}][: 3 - first]


def test_a_run_in_which_all_layers_stay_frozen_ends_with_a_warning() -> None:
    flow = GradientFlowCallback()
    with pytest.warns(UserWarning, match=r"got none in 9 steps: all of them are frozen. Cure"):
        fit(flow, Gradual(9), module=Unfrozen())
    assert flow.history == []


class Embedding(TinyModule):
    """Has an embedding whose gradients are sparse tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.table = nn.Embedding(FEATURES, FEATURES, sparse=True)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]  # two of them
            optimizer.zero_grad()
        self.manual_backward(self.loss((batch[0] + self.table(batch[1]), batch[1])))
        for optimizer in self.optimizers():  # type: ignore[union-attr]  # as above
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [SGD(self.net.parameters(), lr=0.1), SparseAdam(self.table.parameters(), lr=0.1)]


class Lazy(TinyModule):
    """Has layers whose weights are made by the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(CLASSES))

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.1)


def test_layers_whose_weights_are_made_by_the_first_batch_are_measured() -> None:
    flow = GradientFlowCallback(every_n_steps=1)
    run = fit(flow, module=Lazy(), num_sanity_val_steps=0)
    assert run.global_step == len(flow.history) == 9
    assert set(flow.history[0].layers) == {"net.0.weight", "net.2.weight"}


def failing(module: Any, batch: Any) -> Tensor:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("flow", "reason"),
    [
        (lambda: GradientFlowCallback(batches=[BATCH], every_n_steps=1, loss=failing), "RuntimeError: out of memory"),
        (
            lambda: GradientFlowCallback(batches=[BATCH], loss=lambda *_: None),
            "scalar tensor with a gradient; got None",
        ),
    ],
    ids=["loss_raises", "no_loss"],
)
def test_a_measurement_that_fails_is_one_warning_and_training_goes_on(flow: Any, reason: str) -> None:
    callback = flow()
    with pytest.warns(UserWarning, match=f"Expected to measure gradients in epoch 0; got .*{reason}.*Cure") as caught:
        run = fit(callback)
    assert run.global_step == 9
    assert callback.history == []
    assert sum("to measure gradients" in str(each.message) for each in caught) == 1


def broken(*_: Any) -> Any:
    raise RuntimeError("no such kernel")


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"every_n_steps": 1}, 9), ({}, 9), ({}, 2)],
    ids=["steps", "epochs", "an_epoch_that_ends_early"],
)
def test_gradients_that_can_not_be_measured_at_a_step_are_a_warning(
    options: Any, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(run: Any, _: Any) -> None:
        run.should_stop = run.global_step >= steps

    monkeypatch.setattr("lightning_sparse.callbacks.gradient_flow.step_measurement.measure_gradients", broken)
    flow = GradientFlowCallback(**options)
    with pytest.warns(UserWarning, match="Expected to measure gradients in epoch 0; got .*no such kernel"):
        run = fit(flow, At("on_train_batch_end", end))
    assert run.global_step == steps
    assert flow.history == []


def test_zeros_that_can_not_be_found_at_the_start_are_a_warning_and_gradients_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lightning_sparse.callbacks.gradient_flow.measurement.zero_parameters", broken)
    flow = GradientFlowCallback()
    with pytest.warns(UserWarning, match="Expected to measure gradients in epoch 0; got .*no such kernel"):
        run = fit(flow)
    assert run.global_step == 9
    assert [record.step for record in flow.history] == [2, 5, 8]


class Refusing(Logger):
    """Takes metrics of Lightning's own only."""

    name, version = "refusing", "0"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[set[str]] = []

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Not noted."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any("/" in name for name in metrics):
            raise NotADirectoryError("a folder has the name of a metric")
        self.rows.append(set(metrics))


@pytest.mark.parametrize("kind", [GradientFlowCallback, SparseMomentumCallback])
def test_a_logger_that_refuses_our_metrics_is_warned_of_once_and_others_get_them(kind: Any) -> None:
    refusing, taking = Refusing(), Refusing()
    taking.log_metrics = lambda metrics, step=None: taking.rows.append(set(metrics))  # type: ignore[method-assign]  # as it should
    with pytest.warns(UserWarning, match="Refusing to take metrics such as .*NotADirectoryError.*Cure") as caught:
        run = fit(kind(), logger=[refusing, taking], log_every_n_steps=1)
    assert run.global_step == 9
    assert sum("to take metrics" in str(each.message) for each in caught) == 1
    assert any("/" in name for row in taking.rows for name in row)


def test_weights_that_have_no_checksum_are_a_warning_and_training_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> str:
        raise TypeError("no bytes of such a tensor")

    monkeypatch.setattr("lightning_sparse.callbacks.class_specialization.callback.checksum", broken)
    special = ClassSpecializationCallback(layers="ReLU")

    class Classifying(TinyModule):
        num_classes = CLASSES

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

    with pytest.warns(UserWarning, match="no bytes of such a tensor"):
        run = fit(special, module=Classifying())
    assert run.global_step == 9


def test_a_module_that_trains_with_sparse_gradients_is_measured_where_it_can_be() -> None:
    flow = GradientFlowCallback(include=["default", "Embedding"])
    run = fit(flow, module=Embedding())
    assert run.global_step == 18
    assert {record.optimizer for record in flow.history} >= {0}


def test_patterns_without_a_layer_are_an_error_before_training_though_others_are_frozen() -> None:
    steps: list[int] = []
    with pytest.raises(ValueError, match="trained layer to measure the gradient of; got none"):
        fit(
            GradientFlowCallback(include="nowhere"),
            At("on_train_batch_end", lambda *_: steps.append(0)),
            module=Unfrozen(),
        )
    assert steps == []
