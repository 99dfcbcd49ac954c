"""One callback in several runs, beside other callbacks, through evaluation and through failures."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from tiny_training import (
    FEATURES,
    At,
    Batch,
    EndsByItself,
    ManualModule,
    ShufflingLoader,
    TinyModule,
    active_weights,
    differences,
    everything,
    fit,
    masks_of,
    one_checkpoint,
    saving_at,
    stray_weights,
    trainer,
    watchers_of,
)
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import SparseMomentumCallback
from lightning_sparse._compat import MisconfigurationException


def test_one_callback_serves_several_modules_as_well_as_new_callbacks() -> None:
    reused = SparseMomentumCallback(density=0.3, growth="random")
    for optimizer in ("momentum", "sgd", "momentum"):
        fresh = SparseMomentumCallback(density=0.3, growth="random")
        expected = everything(fit(fresh, module=TinyModule(optimizer)), fresh)
        assert differences(everything(fit(reused, module=TinyModule(optimizer)), reused), expected) == []


def test_a_callback_lets_go_of_the_module_before() -> None:
    callback, module = SparseMomentumCallback(density=0.3), TinyModule()
    run = fit(callback, module=module)
    reference = weakref.ref(module)
    run.strategy._lightning_module = None
    del module, run
    fit(callback)
    gc.collect()
    assert reference() is None


def test_a_second_fit_of_the_same_module_keeps_its_masks() -> None:
    callback, module, masks = SparseMomentumCallback(density=0.3), TinyModule(), []
    fit(callback, module=module)
    before = masks_of(callback)
    fit(callback, At("on_train_batch_end", lambda *_: masks.append(masks_of(callback))), module=module)
    assert differences(masks[0], before) == []
    assert differences(masks[-1], before)
    assert [record.epoch for record in callback.history] == [1, 2]
    assert active_weights(callback) == 24
    assert stray_weights(callback, module) == {}


def test_the_random_state_of_a_run_does_not_depend_on_the_run_before() -> None:
    runs = []
    for first in (0, 1):
        callback = SparseMomentumCallback(density=0.3, growth="random", seed=4)
        for _ in range(first):
            fit(callback)
        runs.append(everything(fit(callback), callback))
    assert differences(*runs) == []


def test_weights_that_were_loaded_and_masked_between_two_fits_are_sparse_before_the_first_step() -> None:
    callback, module, seen = SparseMomentumCallback(density=0.3), TinyModule(), []
    fit(callback, module=module)
    module.load_state_dict(TinyModule().state_dict())
    assert callback.network is not None
    callback.network.enforce()
    spies = [
        At(hook, lambda *_: seen.append(stray_weights(callback, module)))
        for hook in ("on_validation_start", "on_train_start")
    ]
    fit(callback, *spies, module=module)
    assert seen[:2] == [{}, {}]


@pytest.mark.parametrize("module_class", [TinyModule, ManualModule])
def test_the_optimizers_are_free_of_hooks_after_training(module_class: type[TinyModule]) -> None:
    hooks = []
    spy = At("on_train_batch_end", lambda trainer, _: hooks.append(watchers_of(trainer)))
    run = fit(SparseMomentumCallback(density=0.3), spy, module=module_class())
    assert set(hooks) == {1}
    assert watchers_of(run) == 0


class Failing(TinyModule):
    """Fails after five steps, once."""

    error: BaseException | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == 5 and self.error is not None:
            error, self.error = self.error, None
            raise error
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("error", [RuntimeError("a user's mistake"), KeyboardInterrupt()])
def test_after_an_exception_the_optimizers_are_free_of_hooks_and_training_can_go_on(error: BaseException) -> None:
    callback, module = SparseMomentumCallback(density=0.3), Failing()
    module.error, run = error, trainer(callback)
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert module.error is None
    assert watchers_of(run) == 0
    assert callback.network is not None
    assert callback.network.steps == 5
    fit(callback, module=module)
    assert callback.network.steps == 14
    assert stray_weights(callback, module) == {}


def test_a_failure_at_the_start_of_training_leaves_nowatchers_of() -> None:
    callback, run = SparseMomentumCallback(density=0.3), trainer(max_epochs=-1)
    run.callbacks.append(callback)
    with pytest.raises(ValueError, match="known length"):
        run.fit(EndsByItself(), ShufflingLoader(), ShufflingLoader(1))
    assert len(run.optimizers) == 1
    assert watchers_of(run) == 0


@pytest.mark.parametrize("evaluate", ["validate", "test"])
def test_evaluating_a_checkpoint_without_a_fit_is_harmless(tmp_path: Path, evaluate: str) -> None:
    path = one_checkpoint(tmp_path, SparseMomentumCallback(density=0.5, seed=9))
    callback = SparseMomentumCallback(density=0.3)
    run = trainer(callback)
    getattr(run, evaluate)(TinyModule(), ShufflingLoader(1), ckpt_path=path, verbose=False)
    assert not hasattr(callback, "network")
    assert callback.history == []
    fresh = SparseMomentumCallback(density=0.3)
    assert differences(everything(fit(callback), callback), everything(fit(fresh), fresh)) == []


@pytest.mark.parametrize("evaluate", ["validate", "test"])
def test_evaluating_without_a_checkpoint_leaves_the_run_as_it_was(evaluate: str) -> None:
    callback = SparseMomentumCallback(density=0.3)
    run = fit(callback)
    before = everything(run, callback)
    getattr(run, evaluate)(run.lightning_module, ShufflingLoader(1), verbose=False)
    assert differences(everything(run, callback), before) == []


def test_a_fit_after_evaluating_a_checkpoint_is_sparse_from_the_start(tmp_path: Path) -> None:
    callback, module, seen = SparseMomentumCallback(density=0.3), TinyModule(), []
    run = fit(callback, saving_at(3, tmp_path / "before.ckpt"), module=module)
    run.test(module, ShufflingLoader(1), ckpt_path=str(tmp_path / "before.ckpt"), verbose=False)
    spy = At("on_train_batch_start", lambda *_: seen.append(stray_weights(callback, module)))
    fit(callback, spy, module=module)
    assert seen == [{}] * 9


@pytest.mark.parametrize("growth", ["momentum", "gradient"])
def test_a_fit_goes_on_after_evaluating_a_checkpoint_with_averages_and_gradients(tmp_path: Path, growth: str) -> None:
    callback, module = SparseMomentumCallback(density=0.3, growth=growth), TinyModule("sgd")
    run = fit(callback, saving_at(4, tmp_path / "before.ckpt"), module=module)
    run.test(module, ShufflingLoader(1), ckpt_path=str(tmp_path / "before.ckpt"), verbose=False)
    fit(callback, module=module)
    assert [record.epoch for record in callback.history] == [1, 2]
    assert stray_weights(callback, module) == {}


def test_a_learning_rate_finder_runs_beside_it(tmp_path: Path) -> None:
    callback = SparseMomentumCallback(density=0.3)
    finder = LearningRateFinder(num_training_steps=5, update_attr=False)
    run = fit(callback, finder, default_root_dir=tmp_path)
    assert run.global_step == 9
    assert [record.step for record in callback.history] == [3, 6]
    assert stray_weights(callback, run.lightning_module) == {}


def test_a_tuner_finds_a_learning_rate_before_it(tmp_path: Path) -> None:
    callback, module = SparseMomentumCallback(density=0.3), TinyModule()
    run = trainer(callback, default_root_dir=tmp_path)
    Tuner(run).lr_find(module, ShufflingLoader(), ShufflingLoader(1), num_training=5, update_attr=False)
    run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert [record.step for record in callback.history] == [3, 6]


class Sized(TinyModule):
    """Has a batch size to find."""

    batch_size = 2

    def train_dataloader(self) -> DataLoader[Any]:
        inputs = torch.linspace(-1, 1, 8 * FEATURES).view(8, FEATURES)
        return DataLoader(TensorDataset(inputs, torch.arange(8) % 4), batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()


def test_a_batch_size_finder_runs_beside_it(tmp_path: Path) -> None:
    callback = SparseMomentumCallback(density=0.3)
    finder = BatchSizeFinder(steps_per_trial=1, max_trials=1)
    run = trainer(callback, finder, default_root_dir=tmp_path)
    run.fit(Sized())
    assert finder.optimal_batch_size is not None
    assert [record.epoch for record in callback.history] == [1, 2]


def test_layers_may_be_built_as_late_as_configure_model() -> None:
    class Late(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            del self.net

        def configure_model(self) -> None:
            if not hasattr(self, "net"):
                self.net = TinyModule().net

    late, early = SparseMomentumCallback(density=0.3), SparseMomentumCallback(density=0.3)
    assert differences(everything(fit(late, module=Late()), late), everything(fit(early), early)) == []


def test_a_compiled_submodule_keeps_the_names_of_its_layers() -> None:
    class Compiled(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(self.net, backend="eager")

    compiled, plain = (SparseMomentumCallback(density=0.3, include="net.*") for _ in range(2))
    run, reference = fit(compiled, module=Compiled()), fit(plain)
    assert next(iter(run.lightning_module.state_dict())) == "net._orig_mod.0.weight"
    assert differences(compiled.state_dict(), plain.state_dict()) == []
    assert [values.tolist() for values in run.lightning_module.parameters()] == [
        values.tolist() for values in reference.lightning_module.parameters()
    ]


def test_two_sparse_callbacks_in_one_trainer_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="Expected one SparseMomentumCallback"):
        fit(SparseMomentumCallback(density=0.3), SparseMomentumCallback(density=0.5))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))])
def test_a_copied_callback_trains_alike(clone: Any) -> None:
    callback = SparseMomentumCallback(density={"net.0": 0.5, "*": 0.25}, growth="gradient", schedule="linear", seed=3)
    copied = clone(callback)
    assert differences(everything(fit(callback), callback), everything(fit(copied), copied)) == []


def test_the_module_can_be_copied_while_it_trains() -> None:
    copies = []
    spy = At("on_train_batch_end", lambda _, module: copies.append(copy.deepcopy(module.net)))
    run = fit(SparseMomentumCallback(density=0.3), spy)
    assert differences(copies[-1].state_dict(), run.lightning_module.net.state_dict()) == []


def test_the_global_seed_decides_unless_a_seed_is_given() -> None:
    found: dict[tuple[int, int | None], Any] = {}
    for global_seed, seed in ((0, None), (1, None), (0, 7), (1, 7)):
        torch.manual_seed(global_seed)
        callback = SparseMomentumCallback(density=0.3, growth="random", seed=seed)
        fit(callback)
        found[global_seed, seed] = masks_of(callback)
    assert differences(found[0, None], found[1, None])
    assert differences(found[0, 7], found[1, 7]) == []
    assert differences(found[0, 7], found[0, None])


def test_a_module_of_a_user_is_not_changed_by_a_callback_that_is_not_used() -> None:
    module = TinyModule()
    before = {name: values.clone() for name, values in module.state_dict().items()}
    trainer(SparseMomentumCallback(density=0.3))
    assert differences(module.state_dict(), before) == []
