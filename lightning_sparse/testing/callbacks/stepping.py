"""Properties of callbacks at every step, budget and zeros, and after fit, free optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.callbacks import SparseTrainingCallback
from lightning_sparse.callbacks.sparse_training.updating import final_density
from lightning_sparse.network.budget import Density
from lightning_sparse.testing.callbacks.runs import (
    DENSITY,
    Factory,
    active_weights,
    masks_of,
    new,
    quiet,
    stray_weights,
    takes_density,
    train,
    watchers_of,
)
from lightning_sparse.testing.callbacks.training import At, Batch, ShufflingLoader, TinyModule, trainer
from lightning_sparse.testing.contract import expect

_CURE = "change masks through network.rewire only"
OPTIMIZERS = ("momentum", "nesterov", "adam", "adamw", "rmsprop", "adagrad")
WAYS: dict[str, dict[str, Any]] = {
    "plainly": {},
    # Five batches in twos: the last step of an epoch has one batch only.
    "with accumulated gradients": {"accumulate_grad_batches": 2, "loader": ShufflingLoader(5), "max_epochs": 2},
    "with clipped gradients": {"gradient_clip_val": 0.01},
}
MOMENTS = ("on_train_start", "on_train_batch_start", "on_train_batch_end", "on_validation_start", "on_train_end")


class Snapshot(NamedTuple):
    """Counts of a run's weights at one moment.

    Attributes:
        moment: Name of the hook.
        active: Active weights, counted in the masks.
        size: Masked weights, active or not.
        stray: Inactive weights that are not zero, by layer.
        reported: Active weights as `network.layers` says.
    """

    moment: str
    active: int
    size: int
    stray: dict[str, int]
    reported: int


def budget_is_exact_after_every_step(factory: Factory) -> None:
    """Ask for `round(density * N)` active weights at every moment of training, from its start on."""
    for number, optimizer in enumerate(OPTIMIZERS):
        way = list(WAYS)[number % len(WAYS)]
        callback, snapshots = new(factory), list[Snapshot]()
        _watch(callback, snapshots, optimizer, way)
        final = final_density(callback)
        if final is not None:
            _check_final(snapshots, final, f"with {optimizer} {way}")
            continue
        # The initial masks give the budget where the density isn't known.
        budget = round(DENSITY * snapshots[0].size) if takes_density(factory) else snapshots[0].active
        wrong = [(snapshot.moment, snapshot.active) for snapshot in snapshots if snapshot.active != budget]
        expect(
            not wrong,
            f"{budget} of {snapshots[0].size} weights active at every moment, with {optimizer} {way}",
            f"others at {len(wrong)} of {len(snapshots)} moments, first {wrong[:1]}",
            _CURE,
        )


def inactive_weights_are_zero_after_every_step(factory: Factory) -> None:
    """Ask for exact zeros outside of the masks, with every optimizer, accumulated and clipped gradients."""
    for optimizer, way in product(OPTIMIZERS, WAYS):
        snapshots = list[Snapshot]()
        _watch(new(factory), snapshots, optimizer, way)
        wrong = [(snapshot.moment, snapshot.stray) for snapshot in snapshots if snapshot.stray]
        expect(
            not wrong,
            f"zeros at all inactive weights at every moment, with {optimizer} {way}",
            f"other values at {len(wrong)} of {len(snapshots)} moments, first {wrong[:1]}",
            "leave the network attached to the optimizers from on_fit_start to teardown",
        )


def _check_final(snapshots: list[Snapshot], final: Density, how: str) -> None:
    """Raise unless a run whose density changes has as many weights as it says at every moment, and ends as planned."""
    wrong = [(snapshot.moment, snapshot.active) for snapshot in snapshots if snapshot.active != snapshot.reported]
    expect(not wrong, f"as many active weights as network.layers says at every moment, {how}", wrong[:3], _CURE)
    if isinstance(final, Mapping):
        return
    last, budget = snapshots[-1], round(final * snapshots[-1].size)
    expect(last.active == budget, f"{budget} of {last.size} weights active at the end, {how}", last.active, _CURE)


def _watch(callback: SparseTrainingCallback, snapshots: list[Snapshot], optimizer: str, way: str) -> None:
    """Train, and record the counts before and after every batch and at further hooks."""

    def recorder(moment: str) -> At:
        def record(_: Trainer, module: LightningModule) -> None:
            size = sum(mask.numel() for mask in masks_of(callback).values())
            reported = sum(layer.active for layer in callback.network.layers.values())
            stray = stray_weights(callback, module)
            snapshots.append(Snapshot(moment, active_weights(callback), size, stray, reported))

        return At(moment, record)

    train(callback, *map(recorder, MOMENTS), module=TinyModule(optimizer), **WAYS[way])


def optimizers_are_free_after_fit(factory: Factory) -> None:
    """Ask that no hook stays on an optimizer: it would keep the network alive, and mask the next model's weights."""
    for optimizer in OPTIMIZERS:
        run = train(new(factory), module=TinyModule(optimizer))
        _check_free(run, f"after fit with {optimizer}")


class Failing(TinyModule):
    """Fails in its fourth step, once."""

    has_failed = False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Fail or return the loss."""
        if self.global_step == 3 and not self.has_failed:
            self.has_failed = True
            raise ArithmeticError("meant to fail")
        return super().training_step(batch, batch_idx)


def optimizers_are_free_after_an_exception(factory: Factory) -> None:
    """Ask that a failing step leaves no hook behind, and that the same objects can train on."""
    callback, module = new(factory), Failing()
    with quiet():
        run = trainer(callback)
        try:
            run.fit(module, ShufflingLoader(), ShufflingLoader(1))
        except ArithmeticError:
            pass
        else:
            expect(False, "a fit that ends with the exception of a training step", "none", "return None from hooks")
    _check_free(run, "after an exception in a step")
    again = train(callback, module=module)
    stray = stray_weights(callback, module)
    expect(again.global_step == 6 and not stray, "a second fit with exact zeros", stray, "reset what failed in setup")


def _check_free(run: Trainer, when: str) -> None:
    hooks = watchers_of(run)
    expect(not hooks, f"optimizers without hooks {when}", hooks, "call super().teardown and super().on_exception")


# Every callback is checked for these.
PROPERTIES = (
    budget_is_exact_after_every_step,
    inactive_weights_are_zero_after_every_step,
    optimizers_are_free_after_fit,
    optimizers_are_free_after_an_exception,
)
