"""A run that resumes from any of its checkpoints ends bit for bit like the run that was not interrupted."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_training import (
    At,
    ShufflingLoader,
    TinyModule,
    classifier,
    differences,
    everything,
    fit,
    masks_of,
    one_checkpoint,
    rates,
    saved,
    saving_at,
    saving_everywhere,
    stray_weights,
    trainer,
)

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.topology.packing import pack_mask

pytestmark = [
    # The resumed runs save no checkpoints of their own.
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    # Nor is it of interest that they start in the middle of an epoch.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


def resumes_exactly(folder: Path, optimizer: str, options: dict[str, Any], **trainer_options: Any) -> None:
    """Run once without interruption and once from each of its checkpoints, each time with new objects."""
    callback = SparseMomentumCallback(density=0.3, **options)
    run = fit(callback, *saving_everywhere(folder), module=TinyModule(optimizer), **trainer_options)
    expected = everything(run, callback)
    assert sum(record.grown for record in callback.history) > 0
    checkpoints = saved(folder)
    assert len(checkpoints) == run.global_step + 2 * run.current_epoch
    wrong = {}
    for moment, path in checkpoints.items():
        torch.manual_seed(99)  # a new process has another random state
        resumed = SparseMomentumCallback(density=0.3, **options)
        rerun = fit(resumed, module=TinyModule(optimizer), ckpt_path=path, **trainer_options)
        wrong[moment] = differences(everything(rerun, resumed), expected)
    assert {moment: places for moment, places in wrong.items() if places} == {}


@pytest.mark.parametrize("growth", ["momentum", "random", "gradient"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_run_resumes_exactly_from_every_checkpoint(tmp_path: Path, optimizer: str, growth: str) -> None:
    resumes_exactly(tmp_path, optimizer, {"growth": growth, "schedule": "linear"}, max_epochs=4)


@pytest.mark.parametrize("growth", ["momentum", "random", "gradient"])
def test_a_run_with_updates_every_two_steps_resumes_exactly(tmp_path: Path, growth: str) -> None:
    resumes_exactly(tmp_path, "sgd", {"growth": growth, "every_n_steps": 2})


@pytest.mark.parametrize("options", [{}, {"every_n_steps": 2}, {"every_n_epochs": 2, "schedule": "constant"}], ids=str)
def test_a_run_that_accumulates_gradients_resumes_exactly(tmp_path: Path, options: dict[str, Any]) -> None:
    resumes_exactly(tmp_path, "nesterov", options, accumulate_grad_batches=2)


def test_the_same_objects_resume_as_well_as_new_ones(tmp_path: Path) -> None:
    for growth in ("random", "gradient"):
        callback, module = SparseMomentumCallback(density=0.3, growth=growth), TinyModule()
        folder = tmp_path / growth
        expected = everything(fit(callback, *saving_everywhere(folder), module=module), callback)
        for moment, path in saved(folder).items():
            rerun = fit(callback, module=module, ckpt_path=path)
            assert (moment, differences(everything(rerun, callback), expected)) == (moment, [])


def test_a_run_can_be_interrupted_more_than_once(tmp_path: Path) -> None:
    callback = SparseMomentumCallback(density=0.3, growth="random")
    expected = everything(fit(callback, max_epochs=5), callback)
    path = None
    for step in (4, 7, 9):
        saving = saving_at(step, tmp_path / f"{step}.ckpt")
        fit(SparseMomentumCallback(density=0.3, growth="random"), saving, ckpt_path=path, max_epochs=5)
        path = str(tmp_path / f"{step}.ckpt")
    last = SparseMomentumCallback(density=0.3, growth="random")
    assert differences(everything(fit(last, ckpt_path=path, max_epochs=5), last), expected) == []


def test_a_second_fit_of_the_same_trainer_resumes_exactly(tmp_path: Path) -> None:
    callback, module = SparseMomentumCallback(density=0.3), TinyModule()
    run = fit(callback, saving_at(14, tmp_path / "later.ckpt"), module=module)
    run.fit_loop.max_epochs = 7
    run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert len(set(rates(callback))) == 3
    resumed = SparseMomentumCallback(density=0.3)
    rerun = fit(resumed, ckpt_path=str(tmp_path / "later.ckpt"), max_epochs=7)
    assert differences(everything(rerun, resumed), everything(run, callback)) == []


def test_a_second_fit_of_the_same_module_resumes_exactly(tmp_path: Path) -> None:
    callback, module = SparseMomentumCallback(density=0.3, every_n_steps=2), TinyModule()
    fit(callback, module=module, max_epochs=1)
    run = fit(callback, saving_at(5, tmp_path / "later.ckpt"), module=module)
    assert [record.step for record in callback.history] == [2, 4, 6, 8]
    resumed = SparseMomentumCallback(density=0.3, every_n_steps=2)
    rerun = fit(resumed, ckpt_path=str(tmp_path / "later.ckpt"))
    assert differences(everything(rerun, resumed), everything(run, callback)) == []


def test_a_finished_run_can_be_prolonged_from_its_last_checkpoint(tmp_path: Path) -> None:
    first, second = (SparseMomentumCallback(density=0.3, schedule="constant") for _ in range(2))
    path = one_checkpoint(tmp_path, first, step=9)
    prolonged = fit(second, ckpt_path=path, max_epochs=5)
    whole = SparseMomentumCallback(density=0.3, schedule="constant")
    assert differences(everything(prolonged, second), everything(fit(whole, max_epochs=5), whole)) == []
    assert [record.epoch for record in second.history] == [1, 2, 3, 4]


def test_a_checkpoint_loads_into_the_plain_module(tmp_path: Path) -> None:
    callback = SparseMomentumCallback(density=0.3)
    checkpoint = torch.load(one_checkpoint(tmp_path, callback, step=9), weights_only=True)
    plain = classifier()
    weights = {name.removeprefix("net."): values for name, values in checkpoint["state_dict"].items()}
    plain.load_state_dict(weights, strict=True)
    assert list(checkpoint["state_dict"]) == list(TinyModule().state_dict())
    for name, mask in masks_of(callback).items():
        parameter = plain.get_parameter(name.removeprefix("net."))
        assert int(torch.count_nonzero(parameter)) <= int(mask.sum())
        assert not parameter[~mask].any()


def test_a_checkpoint_loads_as_a_module_without_the_callback(tmp_path: Path) -> None:
    path = one_checkpoint(tmp_path, SparseMomentumCallback(density=0.3), step=9)
    module = TinyModule.load_from_checkpoint(path, strict=True, weights_only=True)
    assert int(torch.count_nonzero(module.net[0].weight)) < 48 // 2


def test_masks_in_a_checkpoint_take_one_bit_per_weight(tmp_path: Path) -> None:
    path = one_checkpoint(tmp_path, SparseMomentumCallback(density=0.3))
    masks = torch.load(path, weights_only=True)["callbacks"]["SparseMomentumCallback"]["network"]["masks"]
    assert {name: (packed.dtype, packed.numel()) for name, packed in masks.items()} == {
        "net.0.weight": (torch.uint8, 6),
        "net.3.weight": (torch.uint8, 4),
    }


def test_masks_are_resumed_right_after_regrowth_when_new_weights_are_still_zero(tmp_path: Path) -> None:
    callback = SparseMomentumCallback(density=0.3)
    run = trainer(callback, max_epochs=2)
    module, states = TinyModule(), []

    def save(batch: Any, batch_idx: int) -> None:
        if callback.history and not states:
            states.append(callback.state_dict())
            run.save_checkpoint(tmp_path / "regrown.ckpt")

    module.on_train_batch_start = save
    run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert sum(change.grown for change in callback.history[0].layers.values()) > 0
    resumed, seen = SparseMomentumCallback(density=0.3), []
    module = TinyModule()
    module.on_train_start = lambda: seen.append((resumed.state_dict(), stray_weights(resumed, module)))
    fit(resumed, module=module, ckpt_path=str(tmp_path / "regrown.ckpt"), max_epochs=2)
    assert differences(seen[0][0]["network"]["masks"], states[0]["network"]["masks"]) == []
    assert seen[0][1] == {}


def test_saving_changes_nothing(tmp_path: Path) -> None:
    runs = []
    for callbacks in ([], saving_everywhere(tmp_path)):
        callback = SparseMomentumCallback(density=0.3, growth="random")
        runs.append(everything(fit(callback, *callbacks), callback))
    assert differences(*runs) == []


class Wider(TinyModule):
    """A model with a layer more than the checkpoint has masks for."""

    def __init__(self) -> None:
        super().__init__()
        self.more = torch.nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"density": 0.5},
            r"Expected masks with 40 active weights, this network's budget; got 24\. Cure: give",
        ),
        ({"density": {"*": 0.25}}, "Expected masks with 20 active weights"),
        ({"exclude": "net.0"}, r"Expected masks of net.3.weight \(4, 8\); got net.0.weight \(8, 6\), net.3.weight"),
        ({"include": "net.0"}, "Cure: load the state of a run with the same model and the same include, exclude and"),
        ({"density": 0.7, "dense": "net.0"}, r"Expected masks of net.3.weight \(4, 8\); got"),
    ],
    ids=str,
)
def test_resuming_with_other_layers_or_another_density_is_an_error_with_the_cure(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = one_checkpoint(tmp_path, SparseMomentumCallback(density=0.3))
    with pytest.raises(ValueError, match=message):
        fit(SparseMomentumCallback(**{"density": 0.3, **options}), ckpt_path=path)
    assert fit(SparseMomentumCallback(density=0.3), ckpt_path=path).global_step == 9


@pytest.mark.parametrize("other", [None, SparseTrainingCallback(density=0.3)], ids=["none", "another"])
def test_resuming_without_masks_in_the_checkpoint_is_an_error_with_the_cure(
    tmp_path: Path, other: SparseTrainingCallback | None
) -> None:
    path = one_checkpoint(tmp_path, *([] if other is None else [other]))
    cure = "Cure: resume from a full checkpoint of a run with this callback; or load weights into the module"
    with pytest.raises(ValueError, match=re.escape(cure)):
        fit(SparseMomentumCallback(density=0.3), ckpt_path=path)


def test_resuming_without_the_callback_is_possible_and_warned_of(tmp_path: Path) -> None:
    path = one_checkpoint(tmp_path, SparseMomentumCallback(density=0.3))
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint.*SparseMomentumCallback"):
        run = fit(ckpt_path=path)
    assert run.global_step == 9


def test_resuming_from_bare_weights_is_refused(tmp_path: Path) -> None:
    fit(SparseMomentumCallback(density=0.3), ModelCheckpoint(tmp_path, filename="bare", save_weights_only=True))
    with pytest.raises((ValueError, KeyError), match=r"contains only the model|Cure: resume from a full checkpoint"):
        fit(SparseMomentumCallback(density=0.3), ckpt_path=str(tmp_path / "bare.ckpt"))


@pytest.mark.parametrize("restores", [True, False])
def test_a_state_that_is_given_back_in_the_middle_of_an_epoch_is_applied_at_the_next_batch(restores: bool) -> None:
    callback = SparseMomentumCallback(density=0.3, every_n_steps=3)
    first: dict[str, Any] = {}
    agree = []

    def keep(run: Any, _: Any) -> None:
        if run.global_step == 1:
            first.update(copy.deepcopy(callback.state_dict()))
        if run.global_step == 5 and restores:  # after the update of step 3
            callback.load_state_dict(first)

    def look(run: Any, _: Any) -> None:
        if run.global_step == 5:
            packed = first["network"]["masks"]
            agree.append(all(torch.equal(packed[name], pack_mask(mask)) for name, mask in masks_of(callback).items()))

    fit(callback, At("on_train_batch_end", keep), At("on_train_batch_start", look), max_epochs=2)
    assert agree == [restores]
