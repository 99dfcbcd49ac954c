"""Callback and module can be copied and pickled at any moment, and a copy trains on like the original."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tiny_training import (
    At,
    TinyModule,
    active_weights,
    differences,
    everything,
    fit,
    masks_of,
    stray_weights,
    watchers_of,
)
from witness import BUDGET, DENSITY

from lightning_sparse import SparseMomentumCallback

CLONES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda original: pickle.loads(pickle.dumps(original)),
}
HOOKS = (
    "on_fit_start",
    "on_train_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
)
GROWTHS = ["momentum", "random", "gradient"]


def sparse(growth: str) -> SparseMomentumCallback:
    return SparseMomentumCallback(density=DENSITY, growth=growth, every_n_steps=2)


@pytest.mark.parametrize("clone", CLONES)
@pytest.mark.parametrize("hook", HOOKS)
def test_callback_and_module_are_copied_in_every_hook_without_a_change(hook: str, clone: str) -> None:
    expected = None
    for copies in (False, True):
        callback = sparse("gradient")
        found: list[tuple[Any, Any, Any]] = []

        def take(run: Trainer, module: LightningModule, by: Any = callback, found: Any = found) -> None:
            copied = CLONES[clone]((by, module))
            weights = {name: values.clone() for name, values in module.state_dict().items()}
            found.append((*copied, (by.network.state_dict(), by.history[:], weights)))

        run = fit(callback, *([At(hook, take)] if copies else []), module=TinyModule("sgd"))
        state = everything(run, callback)
        expected = state if expected is None else expected
        assert differences(state, expected) == []
    assert found
    for copied, module, before in found:
        assert copied.network.model is module
        assert differences((copied.network.state_dict(), copied.history, dict(module.state_dict())), before) == []
        assert stray_weights(copied, module) == {}
        assert active_weights(copied) == BUDGET


@pytest.mark.parametrize("clone", CLONES)
@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_a_copy_that_was_taken_after_a_fit_trains_on_like_the_original(optimizer: str, growth: str, clone: str) -> None:
    callback, module = sparse(growth), TinyModule(optimizer)
    fit(callback, module=module)
    copied, again = CLONES[clone]((callback, module))
    before = {name: mask.clone() for name, mask in masks_of(callback).items()}
    expected = everything(fit(callback, module=module), callback)
    assert differences(masks_of(copied), before) == []
    assert differences(everything(fit(copied, module=again), copied), expected) == []


@pytest.mark.parametrize("clone", CLONES)
@pytest.mark.parametrize("growth", GROWTHS)
def test_a_copy_that_was_taken_in_a_step_trains_on_and_leaves_the_original_alone(growth: str, clone: str) -> None:
    callback, taken = sparse(growth), []

    def take(run: Trainer, module: LightningModule) -> None:
        if run.global_step == 4 and not taken:
            taken.extend([CLONES[clone]((callback, module)) for _ in range(2)])

    run = fit(callback, At("on_before_optimizer_step", take))
    before = everything(run, callback)
    ends = []
    for copied, module in taken:
        torch.manual_seed(5)
        ends.append(everything(fit(copied, module=module), copied))
        assert stray_weights(copied, module) == {}
        assert active_weights(copied) == BUDGET
    assert len(ends) == 2
    assert differences(*ends) == []
    assert differences(everything(run, callback), before) == []


@pytest.mark.parametrize("clone", CLONES)
def test_a_copy_taken_in_a_run_follows_no_optimizer_of_it(clone: str) -> None:
    callback, copies = sparse("momentum"), []
    spy = At("on_train_batch_end", lambda run, _: copies.append(CLONES[clone](callback)))
    run = fit(callback, spy)
    assert [copied.network.steps for copied in copies] == list(range(1, 10))
    assert watchers_of(run) == 0
    assert len({id(copied.network.model) for copied in copies}) == 9
