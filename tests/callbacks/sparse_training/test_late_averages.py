"""An average that starts late is the weights until then, and never ends with fewer than they have."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from tiny_training import At, TinyModule, differences, everything, fit, saving_at, stray_weights
from torch import Tensor
from witness import BUDGET, DENSITY

from lightning_sparse import SparseMomentumCallback
from lightning_sparse.callbacks.sparse_training.averages import Average
from lightning_sparse.testing.equality import deep_copy

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback, but loading.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning"),  # of SWA's scheduler
]

EPOCHS, STEPS = 5, 15


class FromAStep(WeightAveraging):
    """A user's average, from a step on."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx >= self.start


# By the epoch that is the first to be averaged.
LATE: dict[str, Callable[[int], Callback]] = {
    "EMA from a step on": lambda epoch: EMAWeightAveraging(decay=0.5, update_starting_at_step=3 * epoch),
    "EMA from an epoch on": lambda epoch: EMAWeightAveraging(
        decay=0.5, update_every_n_steps=0, update_starting_at_epoch=epoch
    ),
    "a user's": lambda epoch: FromAStep(3 * epoch),
    "SWA": lambda epoch: StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=epoch + 1),
}


def sparse() -> SparseMomentumCallback:
    return SparseMomentumCallback(density=DENSITY, schedule="constant", every_n_steps=1, growth="random")


def values(weights: Any) -> dict[str, Tensor]:
    copied: dict[str, Tensor] = deep_copy(dict(weights))
    return copied


def nonzero(weights: dict[str, Tensor]) -> int:
    return sum(int(torch.count_nonzero(weights[name])) for name in ("net.0.weight", "net.3.weight"))


def trained(folder: Path, *callbacks: Callback) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]], TinyModule]:
    """Train; return the weights that were validated, those that were saved after each step, and the module."""
    validated: list[dict[str, Tensor]] = []
    saved: list[dict[str, Tensor]] = []

    def read(run: Any, _: Any) -> None:
        run.save_checkpoint(folder / "saved.ckpt")
        # PyTorch 2.4 reads the scheduler of SWA no other way.
        saved.append(torch.load(folder / "saved.ckpt", weights_only=False)["state_dict"])

    look = At("on_validation_batch_start", lambda _, module: validated.append(values(module.state_dict())))
    module = TinyModule()
    fit(*callbacks, look, At("on_train_batch_end", read), module=module, max_epochs=EPOCHS)
    return validated, saved, module


@pytest.mark.parametrize("first", [True, False], ids=["before it", "after it"])
@pytest.mark.parametrize("kind", LATE)
def test_until_it_begins_the_weights_are_validated_and_saved(tmp_path: Path, kind: str, first: bool) -> None:
    start = 3
    callback, average = sparse(), LATE[kind](start)
    expected = trained(tmp_path, sparse())
    found = trained(tmp_path, *([average, callback] if first else [callback, average]))
    assert differences(found[0][: start + 1], expected[0][: start + 1]) == []  # the first is the sanity check
    assert differences(found[1][: 3 * start], expected[1][: 3 * start]) == []
    assert [stray_weights(callback, found[2])] == [{}]
    assert BUDGET / 2 < nonzero(found[2].state_dict()) <= BUDGET
    assert differences(values(found[2].state_dict()), values(expected[2].state_dict()))


@pytest.mark.parametrize("first", [True, False], ids=["before it", "after it"])
@pytest.mark.parametrize("kind", LATE)
def test_one_that_never_begins_is_warned_of_and_leaves_the_weights(tmp_path: Path, kind: str, first: bool) -> None:
    callback, average = sparse(), LATE[kind](100)
    expected = trained(tmp_path, sparse())
    name = type(average).__name__
    with pytest.warns(UserWarning, match=rf"Expected the average of {name} to begin .*Cure: let it start earlier"):
        found = trained(tmp_path, *([average, callback] if first else [callback, average]))
    weights = [
        {name: tensor for name, tensor in values(module.state_dict()).items() if "running" not in name}
        for module in (found[2], expected[2])
    ]
    tracked = "net.1.num_batches_tracked"  # of the epoch for batch statistics that SWA adds
    assert differences(*[{**each, tracked: 0} for each in weights]) == []


@pytest.mark.parametrize("kind", LATE)
def test_one_that_is_masked_before_it_begins_ends_nearly_empty(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Average, "has_begun", True)
    module = trained(tmp_path, LATE[kind](100), sparse())[2]
    assert nonzero(module.state_dict()) < BUDGET / 4


def test_one_that_begins_in_time_is_not_warned_of(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained(tmp_path, EMAWeightAveraging(decay=0.5, update_starting_at_step=STEPS - 1), sparse())


@pytest.mark.parametrize("kind", ["EMA from a step on", "a user's", "EMA from an epoch on"])
def test_a_run_resumes_exactly_before_and_after_it_begins(tmp_path: Path, kind: str) -> None:
    # Not at the end of an epoch: resuming from its last step, Lightning passes over that end.
    for step in (5, 13):
        callback = sparse()
        run = fit(LATE[kind](3), callback, saving_at(step, tmp_path / "one.ckpt"), max_epochs=EPOCHS)
        resumed = sparse()
        rerun = fit(LATE[kind](3), resumed, ckpt_path=str(tmp_path / "one.ckpt"), max_epochs=EPOCHS)
        assert differences(everything(rerun, resumed), everything(run, callback)) == [], step
