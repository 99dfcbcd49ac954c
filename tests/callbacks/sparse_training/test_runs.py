"""All that a Trainer can be told to do, beside all that can be in it."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import PyTorchProfiler, SimpleProfiler
from lightning.pytorch.tuner import Tuner
from tiny_training import (
    FEATURES,
    At,
    Batch,
    ShufflingLoader,
    TinyModule,
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
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse._compat import MisconfigurationException

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:You requested to overfit but enabled val dataloader shuffling"),
]


class Predicts(TinyModule):
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.net(batch[0])


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({"overfit_batches": 2}, 2),
        ({"limit_train_batches": 1}, 2),
        ({"limit_train_batches": 0.67}, 2),
        ({"fast_dev_run": 2}, 0),
        ({"max_time": "00:01:00:00"}, 2),
        ({"val_check_interval": 1}, 2),
        ({"detect_anomaly": True}, 2),
        ({"deterministic": True}, 2),
        ({"inference_mode": False}, 2),
        ({"barebones": True, "logger": None, "enable_checkpointing": None, "limit_val_batches": 0}, 2),
    ],
    ids=str,
)
def test_zeros_and_budget_are_exact_in_a_run_with(options: dict[str, Any], updates: int) -> None:
    callback = SparseMomentumCallback(density=DENSITY)
    watch = Watch(callback)
    silent: dict[str, Any] = {"enable_progress_bar": None, "enable_model_summary": None}
    loaders = {"loader": DataLoader(_examples(), batch_size=4)}
    fit(callback, watch, **loaders, **(silent if "barebones" in options else {}), **options)
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})
    assert len(callback.history) == updates


def _examples() -> TensorDataset:
    inputs = torch.linspace(-1, 1, 12 * FEATURES).sin().view(12, FEATURES)
    return TensorDataset(inputs, torch.arange(12) % 4)


PROFILERS: dict[str, Any] = {
    "simple": SimpleProfiler,
    "pytorch": lambda: PyTorchProfiler(schedule=None, emit_nvtx=False, record_module_names=True),
}


@pytest.mark.parametrize("name", PROFILERS)
def test_a_profiled_run_is_the_same_run(tmp_path: Path, name: str) -> None:
    found = []
    for options in ({}, {"profiler": PROFILERS[name](), "default_root_dir": tmp_path}):
        callback = SparseMomentumCallback(density=DENSITY, growth="random")
        found.append(everything(fit(callback, **options), callback))
    assert differences(*found) == []


def test_one_callback_serves_three_fits_and_all_evaluations_and_keeps_only_the_last_run_alive() -> None:
    callback, runs, hooks = SparseMomentumCallback(density=DENSITY, growth="gradient"), [], []
    for _ in range(3):
        module, watch = Predicts(), Watch(callback)
        run = fit(callback, watch, module=module)
        run.validate(module, ShufflingLoader(1), verbose=False)
        run.test(module, ShufflingLoader(1), verbose=False)
        inputs = _examples().tensors[0]
        predicted = run.predict(module, DataLoader(_examples(), batch_size=12))
        assert differences(predicted, [module.eval().net(inputs).detach()]) == []
        assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})
        optimizer = run.optimizers[0]
        hooks.append(watchers_of(run))
        runs.append([weakref.ref(each) for each in (module, run, optimizer, module.net[0].weight)])
        run.strategy._lightning_module = None
        del module, watch, run, optimizer, predicted
    callback.log = callback.log_dict = None  # which Lightning puts there, of the module that ran last
    gc.collect()
    assert hooks == [0, 0, 0]
    alive = [[reference() is not None for reference in references] for references in runs]
    assert alive == [[False] * 4, [False] * 4, [True] * 4]


@pytest.mark.parametrize("evaluate", ["validate", "test", "predict"])
def test_evaluating_an_older_checkpoint_brings_back_its_masks(tmp_path: Path, evaluate: str) -> None:
    callback, module, then = SparseMomentumCallback(density=DENSITY, schedule="constant"), Predicts(), []
    spy = At("on_train_batch_end", lambda run, _: then.append(masks_of(callback)) if run.global_step == 2 else None)
    run = fit(callback, spy, saving_at(2, tmp_path / "older.ckpt"), module=module)
    assert differences(masks_of(callback), then[0])
    more = {} if evaluate == "predict" else {"verbose": False}
    getattr(run, evaluate)(module, ShufflingLoader(1), ckpt_path=str(tmp_path / "older.ckpt"), **more)
    assert differences(masks_of(callback), then[0]) == []
    assert stray_weights(callback, module) == {}
    watch = Watch(callback)
    fit(callback, watch, module=module.train())
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})


def test_the_best_model_was_validated_with_the_weights_that_were_saved(tmp_path: Path) -> None:
    callback, validated = SparseMomentumCallback(density=DENSITY, schedule="constant"), {}

    def keep(run: Trainer, module: LightningModule) -> None:
        validated[run.current_epoch] = {name: values.clone() for name, values in module.state_dict().items()}

    saving = ModelCheckpoint(tmp_path, monitor="loss", filename="{epoch}")
    run = fit(callback, At("on_validation_batch_start", keep), saving, max_epochs=4)
    saved = torch.load(saving.best_model_path, weights_only=True)
    assert differences(dict(saved["state_dict"]), validated[saved["epoch"]]) == []
    run.test(run.lightning_module, ShufflingLoader(1), ckpt_path="best", verbose=False, weights_only=True)
    assert stray_weights(callback, run.lightning_module) == {}


class Sized(TinyModule):
    """Has a batch size to find."""

    batch_size = 2

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_examples(), batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()


FINDERS: dict[str, Any] = {
    "learning rate": lambda: LearningRateFinder(num_training_steps=5, update_attr=False),
    "batch size": lambda: BatchSizeFinder(steps_per_trial=1, max_trials=1),
}


@pytest.mark.parametrize("growth", ["random", "gradient"])
@pytest.mark.parametrize("finder", FINDERS)
def test_a_finder_leaves_a_run_that_resumes_as_sparse_as_it_was(tmp_path: Path, finder: str, growth: str) -> None:
    def sparse() -> SparseMomentumCallback:
        return SparseMomentumCallback(density=DENSITY, growth=growth, schedule="constant")

    path = one_checkpoint(tmp_path, sparse(), step=2)
    callback, first = sparse(), []
    watch = Watch(callback)
    spy = At("on_train_batch_start", lambda *_: first.append(callback.state_dict()["network"]["masks"]))
    run = trainer(FINDERS[finder](), callback, watch, spy, default_root_dir=tmp_path)
    run.fit(Sized(), ckpt_path=path)
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})
    saved = torch.load(path, weights_only=True)["callbacks"][callback.state_key]
    assert differences(first[0], saved["network"]["masks"]) == []
    assert [record.epoch for record in callback.history] == [1, 2]


def test_a_tuner_before_a_resumed_run_changes_nothing(tmp_path: Path) -> None:
    path, found = one_checkpoint(tmp_path, SparseMomentumCallback(density=DENSITY)), []
    for tunes in (False, True):
        callback, module = SparseMomentumCallback(density=DENSITY), TinyModule()
        run = trainer(callback, default_root_dir=tmp_path)
        for _ in range(int(tunes)):
            Tuner(run).lr_find(module, ShufflingLoader(), ShufflingLoader(1), num_training=5, update_attr=False)
        run.fit(module, ShufflingLoader(), ShufflingLoader(1), ckpt_path=path)
        found.append(everything(run, callback))
    assert differences(*found) == []


def test_a_learning_rate_monitor_and_a_logger_change_nothing(tmp_path: Path) -> None:
    found = []
    for others, options in (([], {}), ([LearningRateMonitor()], {"logger": CSVLogger(tmp_path)})):
        callback = SparseMomentumCallback(density=DENSITY)
        found.append(everything(fit(callback, *others, log_every_n_steps=1, **options), callback))
    assert differences(*found) == []


@pytest.mark.parametrize("options", [{"max_epochs": -1, "max_steps": 9}, {"max_epochs": -1, "max_time": "00:00:00:30"}])
def test_a_static_recipe_needs_no_known_length(options: dict[str, Any]) -> None:
    class Ends(TinyModule):
        def on_train_batch_end(self, *_: Any) -> None:
            self.trainer.should_stop = self.global_step >= 7

    callback = SparseTrainingCallback("static", density=DENSITY, every_n_steps=2)
    watch = Watch(callback)
    fit(callback, watch, module=Ends(), **options)
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})


def test_a_second_callback_that_masks_is_refused_with_the_cure() -> None:
    both = (SparseMomentumCallback(density=DENSITY), SparseTrainingCallback("set", density=DENSITY))
    for callbacks in (both, both[::-1]):
        with pytest.raises(MisconfigurationException, match=r"one callback for sparse training; got .*Cure: keep one"):
            fit(*callbacks)


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_a_strategy_that_steps_other_weights_is_refused_at_once_with_the_cure(name: str) -> None:
    module, seen = TinyModule(), []
    before = {key: values.clone() for key, values in module.state_dict().items()}
    spies: list[Callback] = [At(hook, lambda *_: seen.append(1)) for hook in ("on_fit_start", "on_train_start")]
    run = trainer(SparseMomentumCallback(density=DENSITY), *spies)
    kind = type(run.strategy)
    run.strategy.__class__ = type("Custom", (type(name, (kind,), {}),), {})  # a user's subclass of it
    with pytest.raises(MisconfigurationException, match=rf"got {name}, which .*Cure: strategy='ddp'.*FSDP2"):
        run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    run.strategy.__class__ = kind
    assert seen == []
    assert differences(dict(module.state_dict()), before) == []
    fit(SparseMomentumCallback(density=DENSITY), module=module)
