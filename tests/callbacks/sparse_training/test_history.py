"""What is recorded of an update equals a recount."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tiny_training import At, TinyModule, fit, masks_of, rates
from torch import Tensor

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.callbacks import UpdateRecord
from lightning_sparse.topology import LayerChange

Moment = tuple[dict[str, Tensor], dict[str, Tensor]]


def moments(
    callback: SparseTrainingCallback, optimizer: str = "nesterov", **options: Any
) -> list[tuple[Moment, Moment]]:
    """Train and return masks and weights right before and right after each update."""
    before: list[Moment] = []
    after: list[Moment] = []

    def look(into: list[Moment], module: LightningModule) -> None:
        if hasattr(callback, "network"):
            masks = masks_of(callback)
            into.append((masks, {name: module.get_parameter(name).detach().clone() for name in masks}))

    def first(run: Trainer, module: LightningModule) -> None:
        look(before, module)

    def last(run: Trainer, module: LightningModule) -> None:
        look(after, module)

    spies = At("on_train_batch_start", first), At("on_train_batch_start", last)
    fit(spies[0], callback, spies[1], module=TinyModule("nesterov"), **options)
    updated = [record.step for record in callback.history]
    return [(before[step], after[step]) for step in updated]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"growth": "random"},
    {"growth": "gradient", "redistribution": "none"},
    {"pruning": "signed_magnitude", "prune_rate": 0.9},
    {"density": 0.8},
    {"density": 0.5, "dense": "net.3"},
    {"every_n_steps": 1, "schedule": "constant"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_record_equals_a_recount_from_masks_and_weights(options: dict[str, Any]) -> None:
    callback = SparseMomentumCallback(**{"density": 0.3, "schedule": "linear", **options})
    snapshots = moments(callback, max_epochs=4)
    assert len(snapshots) >= 3
    for record, ((old_masks, old), (new_masks, new)) in zip(callback.history, snapshots, strict=True):
        for name, change in record.layers.items():
            was, now = old_masks[name], new_masks[name]
            lost = was & (old[name] != 0) & (new[name] == 0)
            assert (change.name, change.size) == (name, was.numel())
            assert (change.before, change.active) == (int(was.sum()), int(now.sum()))
            assert change.pruned == int(lost.sum())
            assert change.grown == int((now & ~was).sum()) + int((now & lost).sum())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_is_pruned_is_grown(options: dict[str, Any]) -> None:
    callback = SparseMomentumCallback(**{"density": 0.3, "schedule": "linear", **options})
    fit(callback, module=TinyModule("nesterov"), max_epochs=4)
    assert sum(record.grown for record in callback.history) > 0
    for record in callback.history:
        changes = record.layers.values()
        assert record.pruned == sum(change.pruned for change in changes)
        assert record.grown == sum(change.grown for change in changes)
        assert record.pruned == record.grown
        assert record.grown == 0 or sum(change.share for change in changes) == pytest.approx(1)


def test_shares_add_up_to_one_and_are_those_of_the_claims() -> None:
    callback = SparseMomentumCallback(
        density=0.3, redistribution=lambda layer: 3.0 if layer.name == "net.0.weight" else 1.0
    )
    fit(callback)
    assert [change.share for change in callback.history[0].layers.values()] == [0.75, 0.25]
    callback = SparseMomentumCallback(density=0.3)
    fit(callback)
    assert sum(change.share for change in callback.history[0].layers.values()) == pytest.approx(1)


def test_epochs_steps_and_prune_rates_are_recorded() -> None:
    callback = SparseMomentumCallback(density=0.3, every_n_steps=4, schedule="linear", prune_rate=0.4)
    fit(callback, max_epochs=5)
    assert [(record.epoch, record.step) for record in callback.history] == [(1, 4), (2, 8), (4, 12)]
    assert rates(callback) == pytest.approx([0.4, 0.2, 0.0])
    pruned = [change.pruned for change in callback.history[0].layers.values()]
    assert pruned == [round(0.4 * 14), round(0.4 * 10)]


def test_an_update_that_prunes_nothing_is_recorded_as_such() -> None:
    callback = SparseMomentumCallback(density=0.3, prune_rate=0.0)
    fit(callback)
    assert [(record.pruned, record.grown) for record in callback.history] == [(0, 0), (0, 0)]
    assert [change.before for change in callback.history[-1].layers.values()] == [14, 10]


def test_dense_layers_have_no_record() -> None:
    callback = SparseMomentumCallback(density=0.7, dense="net.3")
    fit(callback)
    assert [set(record.layers) for record in callback.history] == [{"net.0.weight"}] * 2


def test_a_record_comes_back_from_plain_values_that_a_checkpoint_may_hold() -> None:
    changes = {"a": LayerChange("a", 10, 5, 2, 3, 0.75), "b": LayerChange("b", 20, 4, 2, 1, 0.25)}
    record = UpdateRecord(epoch=3, step=90, prune_rate=0.25, layers=changes)
    file = io.BytesIO()
    torch.save(record.to_dict(), file)
    file.seek(0)
    assert UpdateRecord.from_dict(torch.load(file, weights_only=True)) == record
    assert (record.pruned, record.grown) == (4, 4)


def test_a_record_can_not_be_changed() -> None:
    record = UpdateRecord(epoch=3, step=90, prune_rate=0.25, layers={})
    with pytest.raises(AttributeError):
        record.prune_rate = 0.5  # type: ignore[misc]  # what is tested
