"""Zeros, budget and masks do not depend on the precision, nor on steps that a gradient scaler skips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import (
    At,
    Batch,
    ManualModule,
    ShufflingLoader,
    TinyModule,
    differences,
    everything,
    fit,
    masks_of,
    saving_at,
)
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from witness import BUDGET, DENSITY, Watch, scaled

from lightning_sparse import SparseMomentumCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

PRECISIONS: dict[str, dict[str, Any]] = {
    "32-true": {"precision": "32-true"},
    "64-true": {"precision": "64-true"},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "16-true": {"precision": "16-true"},
}


def precision(name: str) -> dict[str, Any]:
    """Return new options of a trainer: a gradient scaler has a state of its own."""
    return {"plugins": scaled()} if name == "16-mixed" else PRECISIONS[name]


ALL = [*PRECISIONS, "16-mixed"]


class Overflowing(TinyModule):
    """The gradients of some steps are infinite."""

    def __init__(self, optimizer: str = "momentum", *, at: tuple[int, ...] = (1,)) -> None:
        super().__init__(optimizer)
        self.at = at

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch) * (torch.inf if self.global_step in self.at else 1)


class LargeEps(Overflowing):
    """Its optimizer divides by no number that half precision rounds to zero; and it starts in double precision.

    Lightning loads a checkpoint before it converts the module: weights of 64 bits would be rounded.
    """

    def __init__(self, optimizer: str) -> None:
        super().__init__(optimizer, at=())
        self.double()

    def configure_optimizers(self) -> Optimizer:
        optimizer = super().configure_optimizers()
        optimizer.param_groups[0]["eps"] = 1e-3
        return optimizer


@pytest.mark.parametrize("name", ["16-true", "16-mixed"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_zeros_and_budget_are_exact_in_half_precision(name: str, optimizer: str) -> None:
    callback = SparseMomentumCallback(density=DENSITY, every_n_steps=2)
    watch = Watch(callback)
    run = fit(callback, watch, module=LargeEps(optimizer).float(), **precision(name))
    assert (run.global_step, watch.stray, set(watch.budgets)) == (9, [], {BUDGET})
    assert sum(record.grown for record in callback.history) > 0


@pytest.mark.parametrize("name", ALL)
def test_masks_do_not_depend_on_the_precision_where_the_weights_do_not(name: str) -> None:
    class Still(TinyModule):
        """Its weights are numbers that every precision has, none of them zero, and stay what they are."""

        def __init__(self) -> None:
            super().__init__()
            for parameter in self.parameters():
                parameter.data = (parameter.data * 32).floor() / 32 + 1 / 64

        def configure_optimizers(self) -> Optimizer:
            return SGD(self.parameters(), lr=0.0)

    found = []
    for options in (precision("32-true"), precision(name)):
        callback = SparseMomentumCallback(
            density=DENSITY, growth="random", redistribution="none", schedule="constant", prune_rate=0.3
        )
        fit(callback, module=Still(), **options)
        assert sum(record.grown for record in callback.history) > 0
        found.append(masks_of(callback))
    assert differences(*found) == []


@pytest.mark.parametrize("name", ["64-true", "bf16-mixed", "bf16-true", "16-true", "16-mixed"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_resumes_exactly_in_every_precision(tmp_path: Path, name: str, optimizer: str) -> None:
    for step in (2, 5, 6):
        callback, resumed = (SparseMomentumCallback(density=DENSITY) for _ in range(2))
        saving = saving_at(step, tmp_path / "one.ckpt")
        run = fit(callback, saving, module=LargeEps(optimizer), **precision(name))
        rerun = fit(resumed, module=LargeEps(optimizer), ckpt_path=str(tmp_path / "one.ckpt"), **precision(name))
        assert differences(everything(rerun, resumed), everything(run, callback)) == []


@pytest.mark.parametrize("growth", ["momentum", "gradient"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("at", [(0,), (2,), (3,), (1, 2, 5)], ids=str)
def test_skipped_steps_leave_zeros_budget_and_signals_alone(growth: str, optimizer: str, at: tuple[int, ...]) -> None:
    callback = SparseMomentumCallback(density=DENSITY, growth=growth)
    watch = Watch(callback)
    fit(callback, watch, module=Overflowing(optimizer, at=at), plugins=scaled())
    assert callback.network is not None
    assert callback.network.steps == 9 - len(at)
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})
    assert [record.epoch for record in callback.history] == [1, 2]


def test_a_run_with_skipped_steps_resumes_exactly(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        callback, resumed = (SparseMomentumCallback(density=DENSITY, every_n_steps=2) for _ in range(2))
        saving = saving_at(step, tmp_path / "one.ckpt")
        run = fit(callback, saving, module=Overflowing("sgd", at=(1, 5)), plugins=scaled())
        again = Overflowing("sgd", at=(1, 5))
        rerun = fit(resumed, module=again, ckpt_path=str(tmp_path / "one.ckpt"), plugins=scaled())
        assert differences(everything(rerun, resumed), everything(run, callback)) == []


@pytest.mark.parametrize("growth", ["momentum", "gradient"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_an_epoch_of_nothing_but_skipped_steps_does_not_end_the_run(optimizer: str, growth: str) -> None:
    callback = SparseMomentumCallback(density=DENSITY, growth=growth)
    watch = Watch(callback)
    run = fit(callback, watch, module=Overflowing(optimizer, at=(0, 1, 2)), plugins=scaled(), max_epochs=4)
    assert (run.global_step, watch.stray, set(watch.budgets)) == (12, [], {BUDGET})
    assert callback.network is not None
    assert callback.network.steps == 9


class Fused(Overflowing):
    """Its optimizer is handed the infinite gradients, and skips the step itself."""

    def __init__(self, kind: str, *, at: tuple[int, ...] = (1,)) -> None:
        super().__init__(at=at)
        self.kind = kind

    def configure_optimizers(self) -> Optimizer:
        if self.kind == "adam":
            return Adam(self.parameters(), lr=0.05, fused=True)
        return SGD(self.parameters(), lr=0.1, momentum=0.9 if self.kind == "momentum" else 0.0, fused=True)


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_a_fused_optimizer_that_skips_a_step_itself_trains_on(kind: str) -> None:
    callback = SparseMomentumCallback(density=DENSITY, every_n_steps=2)
    watch = Watch(callback)
    run = fit(callback, watch, module=Fused(kind), plugins=scaled())
    assert (run.global_step, watch.stray, set(watch.budgets)) == (9, [], {BUDGET})
    assert callback.network is not None
    assert callback.network.steps == 8
    assert all(torch.isfinite(values).all() for values in callback.network.state_dict()["averages"].values())


def test_without_infinite_gradients_no_step_is_skipped() -> None:
    for module in (Overflowing(at=()), Fused("sgd", at=()), ManualModule()):
        callback = SparseMomentumCallback(density=DENSITY)
        watch = Watch(callback)
        fit(callback, watch, module=module, plugins=scaled())
        assert callback.network is not None
        assert callback.network.steps == 9
        assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})


def test_gradients_that_a_rule_sees_are_not_scaled() -> None:
    found = []
    for options in ({"precision": "bf16-mixed"}, {"plugins": scaled(init_scale=2.0**10, growth_interval=1000)}):
        callback = SparseMomentumCallback(density=DENSITY, growth="gradient")
        norms: list[float] = []

        def look(*_: Any, callback: SparseMomentumCallback = callback, norms: list[float] = norms) -> None:
            assert callback.network is not None
            state = callback.network.state_dict(gradients=True)
            norms.append(float(state["gradients"]["net.0.weight"].norm()))

        fit(callback, At("on_train_batch_end", look), loader=ShufflingLoader(), max_epochs=1, **options)
        found.append(norms)
    assert found[1] == pytest.approx(found[0], rel=0.1)
