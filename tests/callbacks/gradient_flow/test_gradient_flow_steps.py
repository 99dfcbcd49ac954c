"""The right steps are measured and logged with any optimizers, closures, crashes and loggers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import Logger
from tiny_training import BATCHES, At, Batch, ShufflingLoader, TinyModule, fit, saving_at, trainer
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Optimizer

from lightning_sparse import GradientFlowCallback, effective_gradient_flow
from lightning_sparse.callbacks.gradient_flow.records import MeasurementHistory

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings(
        "ignore:You are trying to `self.log\\(\\)` but `Trainer\\(barebones=True\\)`:UserWarning"
    ),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no .val_dataloader.:UserWarning"),
]


class Tempered(TinyModule):
    """Trains a temperature, too, by a second optimizer, while the network is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.temperature = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]  # two of them
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch) * self.temperature.exp())
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> list[Optimizer]:
        return [SGD(self.net.parameters(), lr=0.1), SGD([self.temperature], lr=0.1)]


def test_while_an_optimizer_without_layers_is_toggled_nothing_is_measured_and_nothing_raised() -> None:
    flow = GradientFlowCallback()
    run = fit(flow, module=Tempered())
    assert [(record.epoch, record.optimizer) for record in flow.history] == [
        (epoch, 0) for epoch in range(run.max_epochs or 0)
    ]


class Accumulating(TinyModule):
    """Steps at every second batch of epochs with an odd number of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        if batch_idx % 2 == 1:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("reading", [False, True])
def test_in_manual_optimization_the_last_step_of_an_epoch_may_come_before_its_last_batch(reading: bool) -> None:
    assert BATCHES % 2 == 1
    flow, every = GradientFlowCallback(), GradientFlowCallback(every_n_steps=1, name="every")
    reads = (
        [At("on_train_batch_end", lambda *_: flow.history)] if reading else []
    )  # reading the history must not fix it
    run = fit(flow, every, *reads, module=Accumulating())
    last = {record.epoch: record for record in every.history}
    assert flow.history == list(last.values())
    assert len(flow.history) == run.max_epochs


def test_fixed_batches_are_measured_after_an_epoch_whose_last_batch_has_no_step() -> None:
    def loss(module: Any, batch: Any) -> Tensor:
        value: Tensor = module.loss(batch)
        return value

    flow = GradientFlowCallback(batches=[next(iter(ShufflingLoader()))], loss=loss)
    run = fit(flow, module=Accumulating())
    assert [record.epoch for record in flow.history] == list(range(run.max_epochs or 0))


class Skipping(TinyModule):
    """Has no loss for the last batch of an epoch."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:  # type: ignore[override]  # as projects do
        return None if batch_idx == BATCHES - 1 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:.*training_step.* returned .None.*:UserWarning")
def test_a_step_without_gradients_is_not_measured() -> None:
    flow = GradientFlowCallback(every_n_steps=1)
    run = fit(flow, module=Skipping())
    assert len(flow.history) == (BATCHES - 1) * (run.max_epochs or 0)
    assert all(record.effective["l2"] > 0 for record in flow.history)


class Closing(TinyModule):
    """Evaluates the loss several times for each step."""

    def configure_optimizers(self) -> Optimizer:
        return LBFGS(self.parameters(), lr=0.1, max_iter=3)


@pytest.mark.parametrize("every", [1, 2])
def test_a_step_with_several_closures_counts_once_and_its_last_gradients_are_measured(every: int) -> None:
    flow, last = GradientFlowCallback(every_n_steps=every), []

    class Noting(Closing):
        def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
            gradients = [self.net[0].weight.grad, self.net[3].weight.grad]
            last.append((self.trainer.fit_loop.total_batch_idx, effective_gradient_flow(gradients, p=2).item()))

    run = fit(flow, module=Noting())
    by_step = dict(last)
    steps = BATCHES * (run.max_epochs or 0)
    assert len(last) > len(by_step) == steps
    measured = [record.effective["l2"] for record in flow.history]
    assert measured == pytest.approx([by_step[step] for step in range(every - 1, steps, every)])


class Rows(Logger):
    """Notes the steps and names of the metrics that it gets."""

    name, version = "rows", "0"

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int | None] = []
        self.names: set[str] = set()

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Not noted."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.steps += [step] * ("gradient_flow/egf_l2" in metrics)
        self.names |= set(metrics)


def test_measurements_before_a_crash_are_logged_once(tmp_path: Path) -> None:
    def crash(run: Any, _: Any) -> None:
        if run.global_step == 7:
            raise RuntimeError("crash")

    crashed, rest = Rows(), Rows()
    saving, crashing = saving_at(5, tmp_path / "5.ckpt"), At("on_train_batch_end", crash)
    with pytest.raises(RuntimeError, match="crash"):
        fit(GradientFlowCallback(every_n_steps=1), saving, crashing, logger=crashed, log_every_n_steps=50)
    fit(GradientFlowCallback(every_n_steps=1), logger=rest, ckpt_path=str(tmp_path / "5.ckpt"), log_every_n_steps=50)
    assert crashed.steps == list(range(7))
    assert rest.steps == list(range(5, 9))


def test_an_epoch_that_is_interrupted_is_logged_when_it_ends(tmp_path: Path) -> None:
    whole, rest = Rows(), Rows()
    fit(GradientFlowCallback(), saving_at(4, tmp_path / "4.ckpt"), logger=whole)
    fit(GradientFlowCallback(), logger=rest, ckpt_path=str(tmp_path / "4.ckpt"))
    assert (whole.steps, rest.steps) == ([2, 5, 8], [5, 8])


@pytest.mark.parametrize("options", [{"log_every_n_steps": 0}, {"barebones": True}], ids=str)
def test_a_run_that_logs_no_steps_fetches_nothing_after_steps(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches: list[int] = []
    fetch = MeasurementHistory.fetch

    def noted(history: MeasurementHistory) -> Any:
        fetches.extend([len(history.waiting)] if history.waiting else [])
        return fetch(history)

    monkeypatch.setattr(MeasurementHistory, "fetch", noted)
    run = fit(GradientFlowCallback(every_n_steps=1), **options)
    assert fetches == [BATCHES] * (run.max_epochs or 0)


def test_several_in_one_trainer_have_names() -> None:
    rows = Rows()
    flows = [GradientFlowCallback(), GradientFlowCallback(include="net.0", name="first")]
    fit(*flows, logger=rows)
    assert {"gradient_flow/egf_l2", "gradient_flow/first/egf_l2"} <= rows.names
    assert "gradient_flow/first/layer_egf_l2/net.3.weight" not in rows.names
    assert set(flows[1].summary()) == {
        *(f"gradient_flow/first/{name}" for name in ("egf_l1", "egf_l2", "l1", "l2", "flagged")),
        *("measured", "non_finite"),
    }
    assert flows[0].state_key != flows[1].state_key
    with pytest.raises(Exception, match=r"another name of each GradientFlowCallback.*got 'first' of two. Cure"):
        fit(*(GradientFlowCallback(every_n_steps=every, name="first") for every in (1, 2)))


def test_a_checkpoint_after_an_evaluation_has_the_history(tmp_path: Path) -> None:
    flow, module = GradientFlowCallback(), TinyModule()
    run = trainer(flow)
    run.fit(module, ShufflingLoader())
    run.validate(module, ShufflingLoader(), verbose=False)
    run.save_checkpoint(tmp_path / "after.ckpt")
    state = torch.load(tmp_path / "after.ckpt", weights_only=True)["callbacks"][flow.state_key]
    assert len(state["measurements"]["places"]) == len(flow.history) > 0


@pytest.mark.parametrize("batches", [None, [next(iter(ShufflingLoader()))]], ids=["steps", "fixed batches"])
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))])
def test_a_copy_of_a_users_subclass_measures_the_same_and_has_a_state_of_its_own(clone: Any, batches: Any) -> None:
    flow = OfAUser(every_n_steps=2, batches=batches)
    copied = clone(flow)
    assert isinstance(copied, GradientFlowCallback)
    assert copied.state_key == flow.state_key
    for callback in (flow, copied, clone(flow)):
        torch.manual_seed(0)
        fit(callback)
    assert copied.history == flow.history
    assert len(flow.history) > 2
    late = clone(flow)
    assert late.history == flow.history
    fit(flow, max_epochs=1)
    assert copied.history == late.history != flow.history


class OfAUser(GradientFlowCallback):
    """Is a user's own class of gradient flow."""
