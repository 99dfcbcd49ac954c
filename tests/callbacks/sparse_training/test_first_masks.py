"""The first masks of a run: of what rule, and for weights of what origin."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from test_forwarded_options import cli
from tiny_training import ShufflingLoader, TinyModule, by_index, differences, fit, masks_of, trainer
from torch import nn
from torch.optim import SGD, Optimizer
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import SparseMomentumCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`max_epochs` was not set:UserWarning"),
]
SIGNS = r"Expected weights as they are initialized, for random masks; got signs .*{}.*Cure: initial_masks='magnitude'"


class Plain(TinyModule):
    """A network without normalization, of which nothing shows that it was trained."""

    def __init__(self, optimizer: str = "momentum") -> None:
        super().__init__(optimizer)
        torch.manual_seed(2)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Identity(), nn.Linear(8, 4))


def sparse(**options: Any) -> SparseMomentumCallback:
    return SparseMomentumCallback(density=DENSITY, prune_rate=0.0, **options)


@pytest.mark.parametrize("rule", ["magnitude", by_index, "tiny_training.by_index"])
def test_a_run_starts_with_the_masks_of_a_rule(rule: Any) -> None:
    module = TinyModule()
    scores = {name: weight.detach().abs() for name, weight in module.named_parameters() if weight.dim() > 1}
    if rule != "magnitude":
        scores = {name: torch.arange(score.numel()).view(score.shape) for name, score in scores.items()}
    callback = sparse(initial_masks=rule)
    watch = Watch(callback)
    fit(callback, watch, module=module)
    kept = [scores[name][mask].min() >= scores[name][~mask].max() for name, mask in masks_of(callback).items()]
    assert kept == [True, True]
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})


def test_by_default_masks_are_random() -> None:
    default, named, largest = sparse(seed=1), sparse(seed=1, initial_masks="random"), sparse(initial_masks="magnitude")
    for callback in (default, named, largest):
        fit(callback)
    assert differences(masks_of(default), masks_of(named)) == []
    assert differences(masks_of(default), masks_of(largest)) != []


def test_the_rule_is_named_in_a_configuration(tmp_path: Path) -> None:
    options = f"initial_masks: magnitude\ndensity: {DENSITY}\nprune_rate: 0.0"
    configured = cli(tmp_path, "lightning_sparse.SparseMomentumCallback", options).trainer.callbacks[0]
    assert isinstance(configured, SparseMomentumCallback)
    made = sparse(initial_masks="magnitude")
    for callback in (configured, made):
        fit(callback)
    assert differences(masks_of(configured), masks_of(made)) == []


@pytest.mark.parametrize("options", [{"initial_masks": "largest"}, {"initial_masks": 3}], ids=str)
def test_a_rule_that_there_is_not_is_refused_by_the_constructor(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"rule for the first masks.*; got .*Cure:"):
        SparseMomentumCallback(**options)


def test_masks_to_take_over_and_a_rule_for_new_ones_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"got masks_from and initial_masks='magnitude'. Cure: drop one"):
        SparseMomentumCallback(masks_from="run.ckpt", initial_masks="magnitude")


def dense(module: LightningModule, **options: Any) -> Any:
    """Train densely, without the callback."""
    run = trainer(**{"max_epochs": 5, "limit_val_batches": 0, **options})
    run.fit(module, ShufflingLoader(), ShufflingLoader())
    return run


def test_random_masks_for_a_network_that_was_trained_are_warned_of_once() -> None:
    module = TinyModule()
    dense(module)
    with pytest.warns(UserWarning, match=SIGNS.format("batches counted by net.1")) as caught:
        fit(sparse(), module=module)
    assert sum("as they are initialized" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize("options", [{"initial_masks": "magnitude"}, {"density": 1.0}], ids=str)
def test_other_masks_for_a_network_that_was_trained_are_not(options: dict[str, Any]) -> None:
    module = TinyModule()
    dense(module)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(SparseMomentumCallback(**{"density": DENSITY, **options}), module=module)
    assert not [str(warning.message) for warning in caught if "as they are initialized" in str(warning.message)]


def test_earlier_steps_of_the_trainer_are_a_sign() -> None:
    module, callback = Plain(), sparse()
    run = dense(module)
    run.callbacks.append(callback)
    run.fit_loop.max_epochs = 7
    with pytest.warns(UserWarning, match=SIGNS.format("15 steps that this Trainer has taken")):
        run.fit(module, ShufflingLoader(), ShufflingLoader())


class OwnOptimizer(Plain):
    """Keeps its optimizer from one fit to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = SGD(self.net.parameters(), lr=0.1, momentum=0.9)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer


def test_the_state_of_an_optimizer_that_has_stepped_the_weights_is_a_sign() -> None:
    module = OwnOptimizer()
    fit(sparse(), module=OwnOptimizer())
    dense(module)
    with pytest.warns(UserWarning, match=SIGNS.format("the state of SGD, of earlier steps")):
        fit(sparse(), module=module)


def test_nothing_is_said_where_nothing_shows_it() -> None:
    module = Plain()
    dense(module)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        callback = sparse()
        fit(callback, module=module)
    assert callback.network is not None


def test_a_second_fit_and_another_module_are_not_warned_of() -> None:
    module, callback = OwnOptimizer(), sparse()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = fit(callback, module=module)
        fit(callback, module=module)
        run.fit_loop.max_epochs = 7
        run.fit(OwnOptimizer(), ShufflingLoader(), ShufflingLoader())
    assert not [str(warning.message) for warning in caught if "as they are initialized" in str(warning.message)]
