"""Averages of the weights are as sparse as the weights: those validated, those saved and those left after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from tiny_training import (
    CLASSES,
    FEATURES,
    At,
    ShufflingLoader,
    TinyModule,
    differences,
    everything,
    fit,
    masks_of,
    saving_at,
    stray_weights,
)
from torch import Tensor, nn
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse._compat import MisconfigurationException

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback, but loading.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides.*"),
    # Of PyTorch's own scheduler, which SWA makes.
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning"),
]


class EveryEpoch(WeightAveraging):
    """A user's average: one of every epoch, all with the same weight."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None


AVERAGES: dict[str, Any] = {
    "EMA": lambda: EMAWeightAveraging(decay=0.5),
    "EMA without buffers": lambda: EMAWeightAveraging(decay=0.9, use_buffers=False),
    "EMA from a step on": lambda: EMAWeightAveraging(decay=0.5, update_starting_at_step=4),
    "EMA of epochs": lambda: EMAWeightAveraging(decay=0.5, update_every_n_steps=100, update_starting_at_epoch=0),
    "mean": WeightAveraging,
    "mean of epochs": EveryEpoch,
}


class NoStatistics(TinyModule):
    """A network without batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Identity(), nn.Linear(8, CLASSES))


MODULES = {"batch norm": TinyModule, "no batch norm": NoStatistics}


def sparse(**options: Any) -> SparseMomentumCallback:
    return SparseMomentumCallback(**{"density": DENSITY, "schedule": "constant", **options})


def wrong(weights: dict[str, Tensor], callback: SparseTrainingCallback) -> dict[str, int]:
    """Return the number of weights of each masked layer that are not zero though inactive."""
    found = {name: int(torch.count_nonzero(weights[name][~mask])) for name, mask in masks_of(callback).items()}
    return {name: count for name, count in found.items() if count}


def nonzero(weights: dict[str, Tensor]) -> int:
    return sum(int(torch.count_nonzero(weights[name])) for name in ("net.0.weight", "net.3.weight"))


def averaged(
    folder: Path, average: Callback, callback: SparseMomentumCallback, module: TinyModule, first: bool, **options: Any
) -> tuple[list[tuple[dict[str, int], int]], list[dict[str, Tensor]]]:
    """Train beside an average; return what was validated, what was saved and, last of both, what was left."""
    validated: list[tuple[dict[str, int], int]] = []
    saved: list[dict[str, Tensor]] = []

    def look(run: Trainer, module: LightningModule) -> None:
        validated.append((stray_weights(callback, module), nonzero(module.state_dict())))

    def read(run: Trainer, module: LightningModule) -> None:
        run.save_checkpoint(folder / "saved.ckpt")
        saved.append(torch.load(folder / "saved.ckpt", weights_only=True)["state_dict"])
        assert wrong(saved[-1], callback) == {}

    callbacks = [average, callback] if first else [callback, average]
    spies = [At("on_validation_batch_start", look), At("on_train_batch_end", read), At("on_train_epoch_end", read)]
    run = fit(*callbacks, *spies, module=module, max_epochs=4, **options)
    look(run, run.lightning_module)
    read(run, run.lightning_module)
    return validated, saved


@pytest.mark.parametrize("first", [True, False], ids=["before it", "after it"])
@pytest.mark.parametrize("kind", AVERAGES)
def test_an_average_is_as_sparse_as_the_weights(tmp_path: Path, kind: str, first: bool) -> None:
    callback, average = sparse(), AVERAGES[kind]()
    validated, saved = averaged(tmp_path, average, callback, TinyModule(), first)
    assert [stray for stray, _ in validated] == [{}] * len(validated)
    assert max(active for _, active in validated) <= BUDGET
    assert max(map(nonzero, saved)) <= BUDGET
    assert len(saved) > 12
    assert sum(record.grown for record in callback.history) > 0
    assert len(callback.history) == 3


@pytest.mark.parametrize("kind", ["EMA", "mean"])
def test_what_is_validated_and_saved_is_the_average_and_not_the_weights(tmp_path: Path, kind: str) -> None:
    left = []
    for average in ([], [AVERAGES[kind]()]):
        run = fit(sparse(), *average)
        left.append(run.lightning_module.state_dict()["net.3.weight"].clone())
    assert not torch.equal(*left)


@pytest.mark.parametrize("kind", ["EMA", "mean"])
def test_an_average_that_is_not_masked_is_denser_than_allowed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("callback", "updating"):
        monkeypatch.setattr(f"lightning_sparse.callbacks.sparse_training.{module}.mask_averages", lambda *_: None)
    monkeypatch.setattr(SparseMomentumCallback, "on_train_end", lambda *_: None)  # which would mask it too, at last
    callback = sparse()
    run = fit(AVERAGES[kind](), callback, max_epochs=4)
    assert nonzero(run.lightning_module.state_dict()) > BUDGET
    assert stray_weights(callback, run.lightning_module) != {}


@pytest.mark.parametrize("first", [True, False], ids=["before it", "after it"])
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("start", [1, 2])
def test_weights_of_stochastic_weight_averaging_are_sparse(name: str, first: bool, start: int) -> None:
    callback = sparse()
    swa = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=start)
    watch, seen = Watch(callback), []

    def look(run: Trainer, module: LightningModule) -> None:
        assert swa._average_model is not None
        seen.append((stray_weights(callback, module), stray_weights(callback, swa._average_model)))

    spies = [At("on_validation_batch_start", look), At("on_train_batch_end", look)]
    callbacks = [swa, callback] if first else [callback, swa]
    run = fit(*callbacks, watch, *spies, module=MODULES[name](), max_epochs=4)
    assert seen == [({}, {})] * len(seen)
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})
    assert stray_weights(callback, run.lightning_module) == {}
    assert 0 < nonzero(run.lightning_module.state_dict()) <= BUDGET
    assert [record.epoch for record in callback.history] == [1, 2, 3]
    torch.testing.assert_close(
        run.lightning_module.get_parameter("net.3.weight"), swa._average_model.get_parameter("net.3.weight")
    )


@pytest.mark.parametrize("name", MODULES)
def test_stochastic_weight_averaging_that_is_not_masked_is_denser_than_allowed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("callback", "updating"):
        monkeypatch.setattr(f"lightning_sparse.callbacks.sparse_training.{module}.mask_averages", lambda *_: None)
    swa = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    fit(swa, sparse(), module=MODULES[name](), max_epochs=4)
    assert swa._average_model is not None
    assert nonzero(swa._average_model.state_dict()) > BUDGET


@pytest.mark.parametrize("first", [True, False], ids=["before it", "after it"])
# Lightning passes over the end of an epoch when a run resumes from its last step: there goes one of the mean's terms.
@pytest.mark.parametrize(("kind", "steps"), [("EMA", (2, 3, 5, 9)), ("mean of epochs", (2, 5))])
def test_a_run_with_an_average_resumes_exactly(tmp_path: Path, kind: str, steps: tuple[int, ...], first: bool) -> None:
    def callbacks() -> tuple[SparseMomentumCallback, list[Callback]]:
        callback, average = sparse(growth="random"), AVERAGES[kind]()
        return callback, ([average, callback] if first else [callback, average])

    for step in steps:
        callback, both = callbacks()
        run = fit(*both, saving_at(step, tmp_path / "one.ckpt"), max_epochs=4)
        resumed, again = callbacks()
        seen: list[dict[str, int]] = []
        spy = At("on_validation_batch_start", lambda *_, seen=seen, by=resumed: seen.append(stray_weights(by, _[1])))
        rerun = fit(*again, spy, ckpt_path=str(tmp_path / "one.ckpt"), max_epochs=4)
        assert differences(everything(rerun, resumed), everything(run, callback)) == []
        assert (len(seen) > 0, [stray for stray in seen if stray]) == (True, [])


def test_the_best_checkpoint_of_an_average_is_evaluated_with_its_own_masks(tmp_path: Path) -> None:
    callback = sparse()
    saving = ModelCheckpoint(tmp_path, monitor="loss", filename="{epoch}", save_top_k=-1)
    run = fit(EMAWeightAveraging(decay=0.5), callback, saving, max_epochs=4)
    for epoch in (0, 3):
        path = tmp_path / f"epoch={epoch}.ckpt"
        run.test(run.lightning_module, ShufflingLoader(1), ckpt_path=str(path), verbose=False, weights_only=True)
        assert wrong(torch.load(path, weights_only=True)["state_dict"], callback) == {}
        assert stray_weights(callback, run.lightning_module) == {}


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_an_average_in_another_precision_is_sparse(tmp_path: Path, precision: str) -> None:
    validated, saved = averaged(tmp_path, AVERAGES["EMA"](), sparse(), TinyModule(), True, precision=precision)
    assert [stray for stray, _ in validated] == [{}] * len(validated)
    assert max(map(nonzero, saved)) <= BUDGET


def test_an_average_that_is_not_shown_is_an_error_with_the_cure() -> None:
    class Hidden(EMAWeightAveraging):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            """Keeps no average yet."""

    with pytest.raises(MisconfigurationException, match=r"Expected Hidden to keep its average.*Cure: put it before"):
        fit(Hidden(), sparse())
