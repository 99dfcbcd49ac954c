"""What a callback was given by a checkpoint and has not used yet is what it saves, however and whenever that is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from tiny_training import At, ShufflingLoader, TinyModule, trainer

import lightning_sparse.callbacks
from lightning_sparse._compat import Callback, Trainer
from lightning_sparse.callbacks import (
    ClassSpecializationCallback,
    GradientFlowCallback,
    RandomStateCallback,
    SparseMomentumCallback,
    SparseTrainingCallback,
    SparsityPictures,
)
from lightning_sparse.testing.equality import differences

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:.*was called without a model:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]

FACTORIES: dict[str, Callable[[], list[Callback]]] = {
    "SparseMomentumCallback": lambda: [SparseMomentumCallback(density=0.3, every_n_steps=3, growth="gradient")],
    "SparseTrainingCallback": lambda: [SparseTrainingCallback("set", density=0.3, schedule="constant")],
    "GradientFlowCallback": lambda: [GradientFlowCallback(every_n_steps=1)],
    "ClassSpecializationCallback": lambda: [ClassSpecializationCallback("Linear", every_n_epochs=1)],
    "RandomStateCallback": lambda: [RandomStateCallback()],
    "SparsityPictures": lambda: [SparsityPictures(), SparseMomentumCallback(density=0.3)],
}


def test_every_exported_callback_is_here() -> None:
    exported = [getattr(lightning_sparse.callbacks, name) for name in lightning_sparse.callbacks.__all__]
    callbacks = [kind.__name__ for kind in exported if isinstance(kind, type) and issubclass(kind, Callback)]
    assert sorted(callbacks) == sorted(FACTORIES)


class Late(SingleDeviceStrategy):
    """Restores a checkpoint only after the start of fit, as strategies do that shard the model."""

    restore_checkpoint_after_setup = True


class UnrelatedError(Exception):
    """Of something that has nothing to do with the callbacks."""


class Fails(At):
    """Raises in a hook before the first batch, ahead of other callbacks."""

    def __init__(self, hook: str) -> None:
        super().__init__(hook, self._fail)

    def _fail(self, *_: Any) -> None:
        raise UnrelatedError


class Called(TinyModule):
    """Can be called with inputs, as a measurement does, and draws random numbers before it trains."""

    def configure_optimizers(self) -> Any:
        torch.rand(1)
        return super().configure_optimizers()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.net(inputs)
        return outputs


class FailsInModule(Called):
    """Raises in a hook before the first batch, after the callbacks."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        self.failing = hook

    def _pass(self, hook: str) -> None:
        if hook == self.failing:
            raise UnrelatedError

    def configure_optimizers(self) -> Any:
        self._pass("configure_optimizers")
        return super().configure_optimizers()

    def on_fit_start(self) -> None:
        self._pass("on_fit_start")

    def on_train_start(self) -> None:
        self._pass("on_train_start")


MOMENTS = ("configure_optimizers", "on_fit_start", "on_train_start")


def on_exception(folder: Path) -> Callback:
    return OnExceptionCheckpoint(folder, filename="saved")


def best(folder: Path) -> Callback:
    saving = ModelCheckpoint(folder, filename="saved", save_on_exception=True, every_n_epochs=100)
    # At the very step that it resumes from, it would not save again.
    saving.load_state_dict = lambda *_: None  # type: ignore[method-assign]  # of this object only
    return saving


def by_hand(folder: Path) -> Callback:
    return At("on_exception", lambda run, _: run.save_checkpoint(folder / "saved.ckpt"))


WAYS = {"OnExceptionCheckpoint": on_exception, "save_checkpoint": by_hand, "ModelCheckpoint": best}


def states(path: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)["callbacks"]
    return {key: state for key, state in found.items() if "Checkpoint" not in key}


def fit(run: Trainer, module: TinyModule, ckpt_path: str | None = None) -> None:
    run.fit(module, ShufflingLoader(), ShufflingLoader(1), ckpt_path=ckpt_path)


def given(folder: Path, name: str, strategy: str = "auto") -> str:
    """Train for some steps and return a checkpoint with the states of the callbacks."""
    path = folder / "given.ckpt"
    saving = At("on_train_batch_end", lambda run, _: run.save_checkpoint(path) if run.global_step == 4 else None)
    fit(trainer(*FACTORIES[name](), saving, max_epochs=2, default_root_dir=folder), Called())
    return str(path)


def fail(folder: Path, callbacks: list[Callback], moment: str, way: str, ckpt_path: str | None, **options: Any) -> Path:
    """Train until something fails before the first batch, and return the checkpoint that was saved then."""
    module = FailsInModule(moment) if moment in MOMENTS else Called()
    failing = [] if moment in MOMENTS else [Fails(moment.partition(" ")[2])]
    saving = WAYS[way](folder)
    run = trainer(
        *failing, *callbacks, saving, enable_checkpointing=way != "save_checkpoint", default_root_dir=folder, **options
    )
    with pytest.raises(UnrelatedError):
        fit(run, module, ckpt_path)
    return folder / "saved.ckpt"


ALL_MOMENTS = [*MOMENTS, "first: on_fit_start", "first: on_train_start", "first: on_train_batch_start"]


@pytest.mark.parametrize("moment", ALL_MOMENTS)
@pytest.mark.parametrize("name", FACTORIES)
def test_a_resumed_run_that_fails_before_its_first_batch_saves_what_it_was_given(
    tmp_path: Path, name: str, moment: str
) -> None:
    path = given(tmp_path, name)
    expected = states(path)
    assert bool(expected)
    ways = list(WAYS)
    way = ways[ALL_MOMENTS.index(moment) % len(ways)]
    saved = fail(tmp_path, FACTORIES[name](), moment, way, path, max_epochs=3)
    assert differences(states(saved), expected) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["SparseMomentumCallback", "RandomStateCallback"])
def test_in_every_way_of_saving(tmp_path: Path, name: str, way: str) -> None:
    path = given(tmp_path, name)
    saved = fail(tmp_path, FACTORIES[name](), "first: on_train_batch_start", way, path, max_epochs=3)
    assert differences(states(saved), states(path)) == []


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_fit_end"])
@pytest.mark.parametrize("name", FACTORIES)
def test_a_signal_handler_before_the_first_batch_saves_what_was_given(tmp_path: Path, name: str, hook: str) -> None:
    path, saved = given(tmp_path, name), tmp_path / "saved.ckpt"
    handler = At(hook, lambda run, _: run.save_checkpoint(saved))
    # In a fit without a batch there is no on_train_start, and nothing is used until its end.
    options = {"limit_train_batches": 0} if hook == "on_fit_end" else {}
    fit(trainer(*FACTORIES[name](), handler, max_epochs=3, default_root_dir=tmp_path, **options), Called(), path)
    assert differences(states(saved), states(path)) == []


@pytest.mark.parametrize("name", FACTORIES)
def test_a_tuner_before_the_first_batch_saves_and_restores_what_was_given(tmp_path: Path, name: str) -> None:
    path, saved = given(tmp_path, name), tmp_path / "saved.ckpt"
    seen: list[dict[str, Any]] = []

    def tune(run: Trainer, *_: Any) -> None:
        run.save_checkpoint(saved)
        seen.append(states(saved))
        run._checkpoint_connector.restore(saved)

    late = At("on_train_start", lambda run, _: run.save_checkpoint(saved))
    fit(
        trainer(At("on_fit_start", tune), *FACTORIES[name](), late, max_epochs=3, default_root_dir=tmp_path),
        Called(),
        path,
    )
    assert differences(seen[0], states(path)) == []
    assert differences(states(saved), states(path)) == []


@pytest.mark.parametrize("name", FACTORIES)
def test_an_evaluation_and_a_fit_of_no_batch_keep_what_was_given(tmp_path: Path, name: str) -> None:
    path, saved = given(tmp_path, name), tmp_path / "saved.ckpt"
    run = trainer(*FACTORIES[name](), default_root_dir=tmp_path)
    run.test(Called(), ShufflingLoader(1), ckpt_path=path, verbose=False)
    run.save_checkpoint(saved)
    assert differences(states(saved), states(path)) == []
    run = trainer(*FACTORIES[name](), max_epochs=3, limit_train_batches=0, default_root_dir=tmp_path)
    fit(run, Called(), path)
    run.save_checkpoint(saved)
    assert differences(states(saved), states(path)) == []


@pytest.mark.parametrize("name", FACTORIES)
def test_where_a_checkpoint_is_restored_after_the_start_of_fit(tmp_path: Path, name: str) -> None:
    path = given(tmp_path, name)
    late = {"strategy": Late(device=torch.device("cpu"))}
    saved = fail(tmp_path, FACTORIES[name](), "on_train_start", "save_checkpoint", path, max_epochs=3, **late)
    assert differences(states(saved), states(path)) == []


class Forgets(RandomStateCallback):
    """Uses what it was given as soon as it comes."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._saved = None


def test_a_callback_that_forgets_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FACTORIES, "Forgets", lambda: [Forgets()])
    with pytest.raises(AssertionError):
        test_in_every_way_of_saving(tmp_path, "Forgets", "save_checkpoint")
