"""Masks of an earlier run: taken over from its checkpoint or network, and kept with their parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from test_forwarded_options import cli
from tiny_training import (
    At,
    ShufflingLoader,
    TinyModule,
    differences,
    everything,
    fit,
    masks_of,
    one_checkpoint,
    stray_weights,
)
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import SparseMomentumCallback, SparseNetwork, SparseTrainingCallback
from lightning_sparse._compat import MisconfigurationException

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


def trained(folder: Path) -> tuple[TinyModule, str, dict[str, Tensor]]:
    """Return a module as it is after five steps and an update, its checkpoint, and its masks."""
    path = one_checkpoint(folder, SparseMomentumCallback(density=DENSITY))
    module = TinyModule()
    content = torch.load(path, weights_only=True)
    module.load_state_dict(content["state_dict"])
    return module, path, SparseNetwork.from_checkpoint(copy.deepcopy(module), path).masks


SOURCES: dict[str, Callable[[TinyModule, str], Any]] = {
    "path": lambda module, path: path,
    "Path": lambda module, path: Path(path),
    "network": lambda module, path: SparseNetwork.from_checkpoint(copy.deepcopy(module), path),
    "masks": lambda module, path: SparseNetwork.from_checkpoint(copy.deepcopy(module), path).masks,
    "content": lambda module, path: torch.load(path, weights_only=True),
}


def masks_at_start(
    callback: SparseTrainingCallback, module: LightningModule, *others: Any, **options: Any
) -> dict[str, Tensor]:
    """Train, and return the masks of the first batch."""
    seen: dict[str, Tensor] = {}
    look = At("on_train_batch_start", lambda *_: seen.update({} if seen else masks_of(callback)))
    fit(callback, look, *others, module=module, **options)
    return seen


@pytest.mark.parametrize("source", SOURCES)
def test_a_run_continues_with_masks_that_it_takes_over(source: str, tmp_path: Path) -> None:
    module, path, masks = trained(tmp_path)
    callback = SparseMomentumCallback(masks_from=SOURCES[source](module, path))
    watch = Watch(callback)
    assert differences(masks_at_start(callback, module, watch), masks) == []
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})
    assert sum(record.grown for record in callback.history) > 0
    assert stray_weights(callback, module) == {}


def test_without_them_a_run_on_the_same_weights_is_refused(tmp_path: Path) -> None:
    module, _, _ = trained(tmp_path)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"dense weights.*Cure: .*masks_from"):
        fit(SparseMomentumCallback(density=DENSITY), module=module)
    assert differences(dict(module.state_dict()), dict(before)) == []


def test_masks_are_taken_over_in_a_configuration(tmp_path: Path) -> None:
    module, path, masks = trained(tmp_path)
    callback = cli(tmp_path, "lightning_sparse.SparseMomentumCallback", f"masks_from: {path}").trainer.callbacks[0]
    assert isinstance(callback, SparseMomentumCallback)
    assert differences(masks_at_start(callback, module), masks) == []


def test_a_resumed_run_keeps_its_own_masks_and_needs_no_file(tmp_path: Path) -> None:
    module, path, _ = trained(tmp_path)
    start = copy.deepcopy(module)

    def run(**options: Any) -> dict[str, Tensor]:
        callback = SparseMomentumCallback(masks_from=path, every_n_steps=2)
        saving = ModelCheckpoint(tmp_path / "second", every_n_train_steps=5, save_top_k=-1)
        run = fit(callback, saving, module=copy.deepcopy(start), **options)
        return everything(run, callback)

    expected = run()
    (saved,) = (tmp_path / "second").glob("*step=5.ckpt")
    Path(path).unlink()
    assert differences(run(ckpt_path=str(saved)), expected) == []
    with pytest.raises(FileNotFoundError, match=r"got .*one\.ckpt"):
        run()


def test_a_density_that_the_masks_do_not_have_is_refused_and_weights_stay(tmp_path: Path) -> None:
    module, path, _ = trained(tmp_path)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"as density=0.5 has.*Cure: leave density out"):
        fit(SparseMomentumCallback(density=0.5, masks_from=path), module=module)
    assert differences(dict(module.state_dict()), dict(before)) == []
    fit(SparseMomentumCallback(density=DENSITY, masks_from=path), module=module)


class WithHead(TinyModule):
    """Fine-tunes the body of another module for another task."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        body[3] = nn.Linear(8, 7)
        self.net = body


def test_a_new_head_is_trained_densely_if_it_is_excluded_and_is_an_error_otherwise(tmp_path: Path) -> None:
    module, path, masks = trained(tmp_path)
    tuned = WithHead(module.net)
    with pytest.raises(ValueError, match=r"shape \(7, 8\) for 'net.3.weight'; got \(4, 8\).*exclude=\['net.3'\]"):
        fit(SparseMomentumCallback(masks_from=path), module=tuned)
    callback = SparseMomentumCallback(masks_from=path, exclude=["net.3"])
    assert differences(masks_at_start(callback, tuned), {"net.0.weight": masks["net.0.weight"]}) == []
    assert tuned.net[3].weight.count_nonzero() == tuned.net[3].weight.numel()


class Frozen(TinyModule):
    """Has a first layer that is trained later."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net, self.backbone = net, net[0].requires_grad_(False)

    def configure_optimizers(self) -> Optimizer:
        return SGD((each for each in self.parameters() if each.requires_grad), lr=0.1, momentum=0.9)


def test_a_sparse_layer_that_is_frozen_keeps_its_mask_and_trains_with_it_when_it_is_unfrozen(tmp_path: Path) -> None:
    module, path, masks = trained(tmp_path)
    tuned, callback = Frozen(module.net), SparseMomentumCallback(masks_from=path)
    before, watch = tuned.net[0].weight.detach().clone(), Watch(callback)
    frozen: list[Tensor] = []
    look = At("on_train_epoch_end", lambda *_: frozen.append(tuned.net[0].weight.detach().clone()))
    start = masks_at_start(callback, tuned, BackboneFinetuning(2, lambda epoch: 1.0), watch, look, max_epochs=4)
    assert differences(start, masks) == []
    assert torch.equal(frozen[1], before)
    assert not torch.equal(frozen[3], before)
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})


def test_a_layer_that_is_unfrozen_without_a_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"net.0.weight, frozen"):
        fit(SparseMomentumCallback(density=DENSITY), BackboneFinetuning(2), module=Frozen(TinyModule().net))


class Plan(TinyModule):
    """Made anew for every training of the same network, as packages do in their `train()`."""

    def __init__(self, net: nn.Module, *, inside: bool = False) -> None:
        super().__init__("sgd")
        self.net = net if not inside else nn.Sequential(net)


def twice(second: Callable[[TinyModule], TinyModule], **options: Any) -> tuple[SparseTrainingCallback, TinyModule]:
    """Train a module, and what a function makes of it, with one callback."""
    callback = SparseMomentumCallback(density=DENSITY, seed=4, growth="random", **options)
    module = Plan(TinyModule().net)
    fit(callback, module=module, loader=ShufflingLoader())
    again = second(module)
    fit(callback, module=again, loader=ShufflingLoader())
    return callback, again


@pytest.mark.parametrize("inside", [False, True])
def test_the_same_parameters_in_another_module_continue_as_in_the_same_one(inside: bool) -> None:
    same, module = twice(lambda module: module)
    other, again = twice(lambda module: Plan(module.net, inside=inside))
    assert differences(list(masks_of(other).values()), list(masks_of(same).values())) == []
    assert differences(list(again.state_dict().values()), list(module.state_dict().values())) == []
    assert [record.grown for record in other.history] == [record.grown for record in same.history]


def test_copies_of_the_parameters_are_not_the_same_ones() -> None:
    with pytest.raises(ValueError, match=r"Cure: .*masks_from"):
        twice(lambda module: Plan(copy.deepcopy(module.net)))
    callback, _ = twice(lambda module: Plan(TinyModule().net))
    assert sum(int(mask.sum()) for mask in masks_of(callback).values()) == BUDGET


def test_masks_of_the_same_parameters_are_kept_rather_than_taken_over_again(tmp_path: Path) -> None:
    module, path, masks = trained(tmp_path)
    callback = SparseMomentumCallback(masks_from=path, every_n_steps=1)
    fit(callback, module=module)
    kept = masks_of(callback)
    assert differences(kept, masks) != []
    assert differences(masks_at_start(callback, module), kept) == []


def test_a_fit_that_fails_at_its_start_restores_weights_that_masks_would_have_changed(tmp_path: Path) -> None:
    _, path, _ = trained(tmp_path)
    dense = TinyModule()
    before = copy.deepcopy(dense.state_dict())
    failing = At("on_train_start", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(SparseMomentumCallback(masks_from=path), failing, module=dense)
    assert differences(dict(dense.state_dict()), dict(before)) == []


def test_a_weights_only_checkpoint_has_no_masks_and_the_error_says_what_has(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, save_weights_only=True)
    fit(SparseMomentumCallback(density=DENSITY), saving, module=TinyModule())
    with pytest.raises(ValueError, match=r"masks in '.*ckpt'.*got none among .*Cure: take a full checkpoint"):
        fit(SparseMomentumCallback(masks_from=saving.best_model_path), module=TinyModule())


def test_resuming_without_the_callbacks_state_names_masks_from(tmp_path: Path) -> None:
    path = one_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"Cure: resume from a full checkpoint .*masks_from="):
        fit(SparseMomentumCallback(density=DENSITY), module=TinyModule(), ckpt_path=path)
