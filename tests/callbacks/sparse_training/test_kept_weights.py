"""Weights that were changed between two fits are not set to zero without a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.tuner import Tuner
from tiny_training import At, ShufflingLoader, TinyModule, differences, fit, masks_of, stray_weights
from torch import nn
from torch.optim import SGD
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import SparseMomentumCallback, SparseNetwork
from lightning_sparse.testing.equality import deep_copy

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning"),  # of SWA's scheduler
]


def sparse(**options: Any) -> SparseMomentumCallback:
    return SparseMomentumCallback(**{"density": DENSITY, "schedule": "constant", **options})


def values(module: nn.Module) -> dict[str, Any]:
    return deep_copy(dict(module.state_dict()))


@pytest.fixture
def restored(tmp_path: Path) -> tuple[SparseMomentumCallback, TinyModule]:
    """Return a callback and its module after a fit, with the weights of its first epoch put back; both are saved."""
    callback, module = sparse(), TinyModule()
    keep = {"filename": "{epoch}", "save_top_k": -1, "every_n_epochs": 1}
    weights = ModelCheckpoint(tmp_path / "weights", save_weights_only=True, **keep)
    whole = ModelCheckpoint(tmp_path / "whole", mode="max", **keep)
    fit(callback, weights, whole, module=module)
    module.load_state_dict(torch.load(tmp_path / "weights" / "epoch=0.ckpt", weights_only=True)["state_dict"])
    return callback, module


@pytest.mark.parametrize("holder", ["the same module", "a new one with the same parameters"])
def test_best_weights_that_were_put_back_are_not_zeroed_by_later_masks(
    restored: tuple[SparseMomentumCallback, TinyModule], holder: str
) -> None:
    callback, module = restored
    lost, before, history = stray_weights(callback, module), values(module), list(callback.history)
    assert sum(lost.values()) > 0
    if holder != "the same module":
        other = TinyModule()
        other.net, module = module.net, other
    listed = ", ".join(f"{count} in {name!r}" for name, count in lost.items())
    found = rf"got {sum(lost.values())} weights that are not zero there.*: {re.escape(listed)}\. Cure: .*masks_from="
    with pytest.raises(ValueError, match=found):
        fit(callback, module=module)
    assert differences(values(module), before) == []
    assert callback.history == history


def test_they_are_zeroed_by_one_who_asks_for_it(restored: tuple[SparseMomentumCallback, TinyModule]) -> None:
    callback, module = restored
    assert callback.network is not None
    callback.network.enforce()
    watch = Watch(callback)
    fit(callback, watch, module=module)
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})


def test_they_are_trained_on_with_the_masks_that_belong_to_them(
    restored: tuple[SparseMomentumCallback, TinyModule], tmp_path: Path
) -> None:
    module, seen = restored[1], []
    before = values(module)
    again = sparse(masks_from=tmp_path / "whole" / "epoch=0.ckpt")
    fit(again, At("on_train_start", lambda *_: seen.append(values(module))), module=module)
    assert differences(seen[0], before) == []


def test_a_new_callback_makes_dense_weights_sparse() -> None:
    callback, module = sparse(), TinyModule()
    fit(callback, module=module)
    module.load_state_dict(TinyModule().state_dict())
    with pytest.raises(ValueError, match="new callback"):
        fit(callback, module=module)
    again = sparse()
    fit(again, module=module)
    assert stray_weights(again, module) == {}


class Interrupted(SGD):
    """Ends a run between a step and what is to be done after it."""

    stops_after: int | None = None
    taken = 0

    def step(self, closure: Any = None) -> Any:
        self.taken += 1
        loss = super().step(closure)
        if self.taken == Interrupted.stops_after:
            self.param_groups[0]["params"][0].data.add_(1.0)  # as if what follows the step had not come to it
            raise KeyboardInterrupt
        return loss


class StepIsInterrupted(TinyModule):
    def configure_optimizers(self) -> Any:
        return Interrupted(self.parameters(), lr=0.1, momentum=0.9)


def between(callback: SparseMomentumCallback, module: LightningModule, run: Trainer) -> None:
    """Evaluate, and look for a learning rate."""
    run.test(module, ShufflingLoader(1), verbose=False)
    Tuner(run).lr_find(module, ShufflingLoader(), ShufflingLoader(1), num_training=5, update_attr=False)


def less(callback: SparseMomentumCallback, module: LightningModule, run: Trainer) -> None:
    """Set some of the active weights to zero, and others to other values."""
    with torch.no_grad():
        for name, mask in masks_of(callback).items():
            weight = module.get_parameter(name)
            weight.copy_(mask * torch.linspace(0, 1, weight.numel()).round().view(weight.shape))


def nothing(callback: SparseMomentumCallback, module: LightningModule, run: Trainer) -> None:
    """Leave everything alone."""


USUAL: dict[str, tuple[Callable[[], list[Any]], Callable[..., None]]] = {
    "a second fit": (list, nothing),
    "an evaluation and a tuner": (list, between),
    "a finder in both": (lambda: [LearningRateFinder(num_training_steps=5, update_attr=False)], nothing),
    "an average over steps": (lambda: [EMAWeightAveraging(decay=0.5)], nothing),
    "a mean": (lambda: [WeightAveraging()], nothing),
    "SWA": (lambda: [StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)], nothing),
    "other values of the active weights": (list, less),
}


@pytest.mark.parametrize("first", [True, False], ids=["before it", "after it"])
@pytest.mark.parametrize("habit", USUAL)
def test_what_is_usual_between_two_fits_goes_on_working(habit: str, first: bool, tmp_path: Path) -> None:
    others, change = USUAL[habit]
    callback, module = sparse(), TinyModule()
    for _ in range(2):
        order = [*others(), callback] if first else [callback, *others()]
        run = fit(*order, module=module.train(), default_root_dir=tmp_path)
        assert stray_weights(callback, module) == {}
        change(callback, module, run)


def test_a_fit_goes_on_after_one_that_ended_between_a_step_and_its_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    callback, module = sparse(), StepIsInterrupted()
    monkeypatch.setattr(Interrupted, "stops_after", 5)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(callback, module=module)
    assert stray_weights(callback, module) == {}
    monkeypatch.setattr(Interrupted, "stops_after", None)
    watch = Watch(callback)
    fit(callback, watch, module=module.train())
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})


def test_weights_outside_of_the_masks_are_counted_by_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    network = SparseNetwork(model, 0.5, seed=0)
    assert network.count_outside() == {}
    masks = network.masks
    with torch.no_grad():
        for name in masks:
            model.get_parameter(name).fill_(1)
    assert network.count_outside() == {name: int((~mask).sum()) for name, mask in masks.items()}
    with torch.no_grad():
        model[0].weight.mul_(masks["0.weight"])
        model[1].weight.fill_(float("nan"))  # which check_finite tells of
    assert network.count_outside() == {}
