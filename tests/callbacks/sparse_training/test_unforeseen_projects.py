"""Projects that replace optimizers, freeze, unfreeze or swap layers, or change weights by themselves."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint, ModelPruning
from tiny_training import (
    At,
    Batch,
    ShufflingLoader,
    TinyModule,
    classifier,
    differences,
    fit,
    masks_of,
    stray_weights,
    trainer,
)
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torchmetrics import Metric
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import SparseMomentumCallback, SparseNetwork
from lightning_sparse._compat import MisconfigurationException
from lightning_sparse.network.steps.hooks import watchers_of as observers_of
from lightning_sparse.topology.recipes import SPARSE_MOMENTUM

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
]


def sparse(**options: Any) -> SparseMomentumCallback:
    return SparseMomentumCallback(density=DENSITY, **options)


def check(*others: Callback, module: LightningModule | None = None, **options: Any) -> SparseMomentumCallback:
    """Train and see that zeros and budget hold at every moment, and that all updates come."""
    callback = sparse()
    watch = Watch(callback)
    fit(callback, *others, watch, module=module, max_epochs=4, **options)
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})
    assert len(callback.history) == 3
    assert sum(record.grown for record in callback.history) > 0
    return callback


def restart(run: Trainer, module: LightningModule) -> None:
    run.strategy.setup_optimizers(run)


def replace(run: Trainer, module: LightningModule) -> None:
    run.optimizers = [SGD(module.parameters(), lr=0.05, momentum=0.5)]


@pytest.mark.parametrize("change", [restart, replace])
@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
def test_optimizers_may_be_replaced(hook: str, change: Callable[[Trainer, LightningModule], None]) -> None:
    check(At(hook, change))


def test_a_replaced_optimizer_is_not_kept_alive() -> None:
    network = SparseNetwork(classifier(), density=DENSITY)
    kept, replaced = (SGD(network.model.parameters(), lr=0.1, momentum=0.9) for _ in range(2))
    network.attach(kept)
    for parameter in network.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    replaced.step()
    assert observers_of([replaced])
    gone = weakref.ref(replaced)
    del replaced
    gc.collect()
    assert gone() is not None  # for its momentum, which an update before the next step decides by
    kept.step()
    gc.collect()
    assert gone() is None


class Sharpness(Optimizer):
    """Steps through an optimizer that it wraps, as sharpness-aware minimization does."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"rho": 0.05})
        self.base = SGD(self.param_groups, lr=0.1, momentum=0.9)

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["before"] = parameter.clone()
                parameter.add_(parameter.grad, alpha=group["rho"])

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.copy_(self.state[parameter]["before"])
        self.base.step()

    def step(self, closure: Any = None) -> None:
        raise NotImplementedError


class Lookahead(Optimizer):
    """Steps another optimizer in its own step."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base = base

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


def network_of(run: Trainer) -> SparseNetwork:
    (network,) = (each.network for each in run.callbacks if isinstance(each, SparseMomentumCallback))  # type: ignore[attr-defined]  # it has callbacks
    assert network is not None
    return network


class Wrapping(TinyModule):
    """Trains with an optimizer that wraps another one."""

    def __init__(self, make: Callable[[Any], Optimizer], manual: bool, enforces: bool = True) -> None:
        super().__init__()
        self.make, self.automatic_optimization, self.enforces = make, not manual, enforces

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.automatic_optimization:
            return self.loss(batch)
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        for step in (optimizer.first_step, optimizer.second_step):
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            step()
            if self.enforces:
                network_of(self.trainer).enforce()
        return None

    def configure_optimizers(self) -> Optimizer:
        return self.make(self.parameters())


@pytest.mark.parametrize("name", ["sharpness-aware", "lookahead"])
def test_optimizers_may_wrap_others(name: str) -> None:
    makers: dict[str, Callable[[Any], Optimizer]] = {
        "sharpness-aware": Sharpness,
        "lookahead": lambda params: Lookahead(SGD(list(params), lr=0.1, momentum=0.9)),
    }
    callback = check(module=Wrapping(makers[name], manual=name == "sharpness-aware"))
    assert [record.step for record in callback.history] == [3, 6, 9]


def test_a_forward_pass_with_unmasked_weights_between_two_calls_is_an_error_with_the_cure_before_an_update() -> None:
    callback, module = sparse(), Wrapping(Sharpness, manual=True, enforces=False)
    with pytest.raises(ValueError, match=r"got a Sharpness, whose first_step\(\).*Cure: give its step\(\) a closure"):
        fit(callback, module=module)
    assert callback.history == []


def test_a_second_optimizer_may_be_used_later_on_the_same_weights() -> None:
    class Two(TinyModule):
        automatic_optimization = False

        def training_step(self, batch: Batch, batch_idx: int) -> None:
            own = self.optimizers(use_pl_optimizer=False)
            optimizer = own if self.current_epoch < 2 else SGD(self.parameters(), lr=0.1, momentum=0.9)
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    check(module=Two())


def test_an_optimizer_whose_weights_change_outside_of_steps_is_refused_with_the_cure() -> None:
    class ScheduleFree(SGD):
        def train(self) -> None:
            """Take the weights to train."""

        def eval(self) -> None:
            """Take the weights to evaluate."""

    class Uses(TinyModule):
        def configure_optimizers(self) -> Optimizer:
            return ScheduleFree(self.parameters(), lr=0.1)

    with pytest.raises(ValueError, match=r"got a ScheduleFree, whose train\(\)/eval\(\).*Cure: an optimizer"):
        fit(sparse(), module=Uses())


class Transfer(TinyModule):
    """Has a first layer that may be frozen, as `BackboneFinetuning` wants it."""

    def __init__(self, *, frozen: bool = True) -> None:
        super().__init__()
        self.backbone = self.net[0]
        self.backbone.requires_grad_(not frozen)

    def configure_optimizers(self) -> Optimizer:
        return SGD((each for each in self.parameters() if each.requires_grad), lr=0.1, momentum=0.9)


def test_a_layer_that_is_unfrozen_between_two_fits_is_an_error_with_the_cure() -> None:
    callback, module = sparse(), Transfer()
    fit(callback, module=module)
    module.backbone.requires_grad_(True)
    before = {name: values.clone() for name, values in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"got others: .*0\.weight was added or unfrozen since. Cure: change layers"):
        fit(callback, module=module)
    assert differences(dict(module.state_dict()), before) == []


def test_a_layer_that_is_replaced_between_two_fits_is_an_error_with_the_cure() -> None:
    callback, module = sparse(), TinyModule()
    fit(callback, module=module)
    module.net[3] = nn.Linear(8, 4)
    with pytest.raises(ValueError, match=r"got others: net\.3\.weight was replaced or removed since. Cure"):
        fit(callback, module=module)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
def test_a_layer_that_appears_in_a_run_is_an_error_before_the_next_update(hook: str) -> None:
    def unfreeze(run: Trainer, module: LightningModule) -> None:
        if hook != "on_train_epoch_start" or run.current_epoch == 1:
            module.backbone.requires_grad_(True)  # type: ignore[union-attr, operator]  # of Transfer

    with pytest.raises(ValueError, match=r"0\.weight was added or unfrozen since"):
        fit(sparse(), At(hook, unfreeze), module=Transfer())


def test_callbacks_that_unfreeze_layers_are_refused_at_once_unless_these_stay_dense() -> None:
    message = r"got BackboneFinetuning, which unfreezes layers during training, and .*Cure: exclude them"
    with pytest.raises(MisconfigurationException, match=message):
        fit(sparse(), BackboneFinetuning(1), module=Transfer(frozen=False))
    callback = sparse(exclude="net.0")
    fit(callback, BackboneFinetuning(1, lambda epoch: 1.0), module=Transfer(frozen=False), max_epochs=3)
    assert list(masks_of(callback)) == ["net.3.weight"]


@pytest.mark.parametrize("when", ["between two fits", "in a run"])
def test_a_layer_that_is_frozen_later_stays_as_it_is_and_keeps_its_mask(when: str) -> None:
    frozen: dict[str, Tensor] = {}

    def freeze(run: Trainer, module: LightningModule) -> None:
        if run.current_epoch == 1 or when == "between two fits":
            weight = module.get_parameter("net.0.weight").requires_grad_(False)
            weight.grad = None
            frozen.setdefault("weight", weight.detach().clone())

    callback, module = sparse(), TinyModule("sgd")
    if when == "between two fits":
        fit(callback, module=module)
        freeze(trainer(), module)
        fit(callback, module=module, max_epochs=4)
    else:
        fit(callback, At("on_train_epoch_end", freeze), module=module, max_epochs=5)
    assert torch.equal(module.net[0].weight, frozen["weight"])
    assert torch.equal(masks_of(callback)["net.0.weight"], frozen["weight"] != 0)
    assert sum(int(mask.sum()) for mask in masks_of(callback).values()) == BUDGET
    assert stray_weights(callback, module) == {}


def test_averages_of_gradients_follow_the_weights_to_another_precision() -> None:
    callback, module = sparse(), TinyModule("sgd")
    fit(callback, module=module)
    watch = Watch(callback)
    fit(callback, watch, module=module, precision="64-true")
    assert (watch.stray, set(watch.budgets)) == ([], {BUDGET})


@pytest.mark.parametrize("density", [0.1, 0.3, 0.8])
def test_new_masks_for_weights_that_are_sparse_already_are_refused_with_the_cure(
    tmp_path: Path, density: float
) -> None:
    module = TinyModule()
    saving = ModelCheckpoint(tmp_path, save_weights_only=True)
    fit(SparseMomentumCallback(density=density), saving, module=module)
    before = {name: values.clone() for name, values in module.state_dict().items()}
    for fresh in (module, TinyModule()):
        fresh.load_state_dict(torch.load(saving.best_model_path, weights_only=True)["state_dict"])
        with pytest.raises(ValueError, match=r"Expected dense weights.*got .* % zeros.*Cure: fit with the callback"):
            fit(SparseMomentumCallback(density=density), module=fresh)
    assert differences(dict(module.state_dict()), before) == []


def test_a_layer_that_starts_from_zero_as_a_whole_is_no_sparse_one() -> None:
    module = TinyModule()
    nn.init.zeros_(module.net[3].weight)
    check(module=module)


def test_lightnings_own_pruning_beside_it_is_refused_with_the_cure() -> None:
    with pytest.raises(MisconfigurationException, match=r"got SparseMomentumCallback and ModelPruning. Cure: keep one"):
        fit(sparse(), ModelPruning("l1_unstructured", amount=0.5))


class Perceptual(Metric):
    """A metric with a network in it."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.Linear(6, 6)

    def update(self) -> None:
        """Nothing is counted."""

    def compute(self) -> Tensor:
        return torch.zeros(())


def test_the_network_of_a_metric_is_never_masked() -> None:
    module = TinyModule()
    module.metric = Perceptual()
    before = module.metric.judge.weight.detach().clone()
    callback = check(module=module)
    assert torch.equal(module.metric.judge.weight, before)
    assert callback.network is not None
    assert callback.network.why_unmasked["metric.judge.weight"] == "of a metric"


def test_a_masked_layer_that_nothing_trains_is_warned_of() -> None:
    module = TinyModule()
    module.teacher = nn.Linear(6, 6)
    with pytest.warns(UserWarning, match=r"got none for teacher\.weight: they keep their.*Cure: exclude them"):
        fit(sparse(), module=module)


def test_weights_that_are_set_after_masks_were_drawn_are_masked_in_the_first_step() -> None:
    def set_anew(run: Trainer, module: LightningModule) -> None:
        module.load_state_dict(TinyModule().state_dict())

    callback, seen = sparse(), []
    look = At("on_before_backward", lambda _, module: seen.append(stray_weights(callback, module)))
    fit(callback, At("on_train_start", set_anew), look)
    assert seen[0] == {}


def test_weights_that_others_change_between_steps_are_masked_where_they_are_validated_and_saved(tmp_path: Path) -> None:
    @torch.no_grad()
    def disturb(run: Trainer, module: LightningModule) -> None:
        for parameter in module.parameters():
            parameter.add_(1e-3)

    callback, seen = sparse(), []
    look = At("on_validation_batch_start", lambda _, module: seen.append(stray_weights(callback, module)))
    saving = ModelCheckpoint(tmp_path, save_last=True)
    run = fit(callback, At("on_train_batch_end", disturb), look, saving)
    assert seen == [{}] * len(seen)
    assert stray_weights(callback, run.lightning_module) == {}
    saved = torch.load(saving.last_model_path, weights_only=True)["state_dict"]
    assert all(not saved[name][~mask].any() for name, mask in masks_of(callback).items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_masks_do_not_depend_on_the_default_dtype_or_device(dtype: torch.dtype) -> None:
    found = []
    for default in (torch.float32, dtype):
        model = nn.Linear(300, 300)
        torch.set_default_dtype(default)
        try:
            with torch.device("cpu" if default is torch.float32 else "meta"):
                found.append(SparseNetwork(model, density=0.003, seed=1).masks["weight"].cpu())
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*found)


def test_a_network_that_is_dropped_is_forgotten_and_steps_go_on() -> None:
    models = [nn.Linear(5, 5) for _ in range(40)]
    optimizers = [SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    kept = SparseNetwork(models[0], density=0.5)
    kept.attach(optimizers[0])
    for model, optimizer in zip(models[1:], optimizers[1:], strict=True):
        SparseNetwork(model, density=0.5).attach(optimizer)
    gc.collect()
    assert len(observers_of(optimizers)) == 1
    for model, optimizer in zip(models, optimizers, strict=True):
        model(torch.ones(2, 5)).sum().backward()
        optimizer.step()
    assert int(torch.count_nonzero(models[0].weight)) <= 13
    kept.rewire(SPARSE_MOMENTUM, 0.5)
    kept.detach()
    assert observers_of(optimizers) == []


def test_two_networks_share_an_optimizer() -> None:
    parts = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
    optimizer = SGD(parts.parameters(), lr=0.1, momentum=0.9)
    networks = [SparseNetwork(part, density=0.5) for part in parts]
    for network in networks:
        network.attach(optimizer)
    parts[1](parts[0](torch.ones(2, 6))).sum().backward()
    optimizer.step()
    assert [network.steps for network in networks] == [1, 1]
    assert [int(torch.count_nonzero(part.weight)) for part in parts] == [18, 18]


def test_validation_before_a_fit_leaves_weights_alone() -> None:
    callback, module = sparse(), TinyModule()
    before = {name: values.clone() for name, values in module.state_dict().items()}
    trainer(callback).validate(module, ShufflingLoader(1), verbose=False)
    assert differences(dict(module.state_dict()), before) == []
