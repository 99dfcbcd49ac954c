"""Layers of every kind keep their zeros in a Trainer, or stay dense and say why."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny_training import (
    CLASSES,
    FEATURES,
    TinyModule,
    differences,
    everything,
    fit,
    masks_of,
    one_checkpoint,
    saving_at,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.optim import SGD, Optimizer
from witness import DENSITY, Watch

from lightning_sparse import SparseMomentumCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


class Holds(TinyModule):
    """Any network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def configure_optimizers(self) -> Optimizer:
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return SGD(trainable, lr=0.1, momentum=0.9)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.second.weight = self.first.weight
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(self.first(inputs).relu()).relu())


class Sequence(nn.Module):
    """Reads the features one by one."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.width, self.layer, self.head = width, layer, nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        steps = inputs.unsqueeze(-1).expand(-1, -1, self.width)
        out = self.layer(steps, steps, steps) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(steps)
        return self.head(out[0][:, -1])


class Sometimes(nn.Module):
    """Uses one of its layers in every third call only, another one never."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.seldom = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES)
        self.never = nn.Linear(FEATURES, CLASSES)
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return self.always(inputs) + (self.seldom(inputs) if self.calls % 3 == 0 else 0)


def watched(net: nn.Module, budget: int, *others: Callback, **options: Any) -> SparseMomentumCallback:
    """Train and return the callback, after checking zeros and budget at every moment."""
    callback = SparseMomentumCallback(**{"density": DENSITY, "schedule": "constant", **options})
    watch = Watch(callback)
    fit(callback, watch, *others, module=Holds(net))
    assert (watch.stray, set(watch.budgets)) == ([], {budget})
    assert sum(record.grown for record in callback.history) > 0
    return callback


def test_a_tied_weight_has_one_mask_and_counts_once() -> None:
    net = Tied()
    callback = watched(net, round(0.3 * (36 + 24)))
    assert list(masks_of(callback)) == ["net.first.weight", "net.head.weight"]
    assert net.second.weight is net.first.weight


def test_a_tied_weight_is_still_tied_after_saving_and_resuming(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net, again = Tied(), Tied()
    again.load_state_dict(net.state_dict())
    callback, resumed = (SparseMomentumCallback(density=DENSITY) for _ in range(2))
    run = fit(callback, saving_at(5, tmp_path / "one.ckpt"), module=Holds(net))
    rerun = fit(resumed, module=Holds(again), ckpt_path=str(tmp_path / "one.ckpt"))
    assert again.second.weight is again.first.weight
    assert differences(everything(rerun, resumed), everything(run, callback)) == []
    assert list(run.lightning_module.state_dict()) == list(Holds(Tied()).state_dict())


@pytest.mark.parametrize(
    ("layer", "include", "size"),
    [
        (nn.LSTM(5, 5, num_layers=2, batch_first=True), nn.LSTM, 4 * 20 * 5),
        (nn.LSTM(5, 5, proj_size=0, bidirectional=False, batch_first=True), "*.weight_hh_l0", 20 * 5),
        (nn.GRU(5, 5, batch_first=True), "GRU", 2 * 15 * 5),
        (nn.MultiheadAttention(5, 1, batch_first=True), [nn.MultiheadAttention, "*.out_proj"], 3 * 25 + 25),
        (nn.MultiheadAttention(5, 1, batch_first=True), "*.in_proj_weight", 3 * 25),
    ],
    ids=str,
)
def test_recurrent_and_attention_weights_are_masked_on_request(layer: nn.Module, include: Any, size: int) -> None:
    callback = watched(Sequence(copy.deepcopy(layer), 5), round(0.3 * size), include=include)
    assert sum(mask.numel() for mask in masks_of(callback).values()) == size
    assert all(name.startswith("net.layer.") for name in masks_of(callback))


@pytest.mark.parametrize("layer", [nn.LSTM(5, 5, batch_first=True), nn.MultiheadAttention(5, 1, batch_first=True)])
def test_recurrent_and_attention_weights_are_dense_unless_requested(layer: nn.Module) -> None:
    callback = watched(Sequence(copy.deepcopy(layer), 5), 6)
    assert list(masks_of(callback)) == ["net.head.weight"]
    assert callback.network is not None
    assert {name for name in callback.network.why_unmasked if "weight" in name} == {
        f"net.layer.{name}" for name, _ in layer.named_parameters() if "weight" in name
    }


def test_a_frozen_layer_stays_as_it_is_and_does_not_count() -> None:
    net = TinyModule().net
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    callback = watched(net, round(0.3 * 32))
    assert torch.equal(net[0].weight, before)
    assert callback.network is not None
    assert callback.network.why_unmasked["net.0.weight"] == "frozen"


def test_layers_without_a_gradient_in_a_step_keep_zeros_and_budget() -> None:
    with pytest.warns(UserWarning, match=r"got none for net\.never\.weight: they keep their.*Cure: exclude them"):
        callback = watched(Sometimes(), round(0.3 * 72), every_n_steps=2)
    assert list(masks_of(callback)) == ["net.always.weight", "net.seldom.weight", "net.never.weight"]
    assert callback.network is not None
    assert callback.network.layers["net.never.weight"].active >= 1


def lazy() -> nn.Sequential:
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(CLASSES))


def test_a_lazy_layer_is_masked_after_a_forward_pass() -> None:
    net = lazy()
    net(torch.zeros(1, FEATURES))
    callback = watched(net, 24)
    assert list(masks_of(callback)) == ["net.0.weight", "net.2.weight"]


def linear() -> nn.Linear:
    return nn.Linear(FEATURES, 8)


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(linear())


def parametrized() -> nn.Module:
    layer = linear()
    parametrize.register_parametrization(layer, "weight", Halved())
    return layer


COMPUTED = {
    "weight_norm": lambda: parametrizations.weight_norm(linear()),
    "spectral_norm": lambda: parametrizations.spectral_norm(linear()),
    "orthogonal": lambda: parametrizations.orthogonal(linear()),
    "own": parametrized,
    "old weight_norm": old_weight_norm,
    "old spectral_norm": lambda: old_spectral_norm(linear()),
    "pruned": lambda: prune.l1_unstructured(linear(), "weight", 0.5),
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_a_weight_that_is_computed_in_every_step_stays_dense_and_is_reported(kind: str) -> None:
    net = nn.Sequential(COMPUTED[kind](), nn.ReLU(), nn.Linear(8, CLASSES))
    sources = [f"net.{name}" for name, parameter in net[:1].named_parameters() if parameter.dim() > 1]
    callback = watched(net, round(0.3 * 32))
    assert list(masks_of(callback)) == ["net.2.weight"]
    assert callback.network is not None
    assert sources
    reasons = {callback.network.why_unmasked[name] for name in sources}
    assert reasons == {"parametrized: the weight is recomputed in every step"}


@pytest.mark.parametrize("include", ["net.0", "net.0.*", "*Linear", nn.Linear], ids=str)
@pytest.mark.parametrize("kind", COMPUTED)
def test_including_a_weight_that_is_computed_in_every_step_is_an_error_with_the_reason(kind: str, include: Any) -> None:
    net = nn.Sequential(COMPUTED[kind](), nn.ReLU())
    with pytest.raises(ValueError, match=r"Expected a pattern that matches a maskable weight.*parametrized.*Cure"):
        fit(SparseMomentumCallback(density=DENSITY, include=include), module=Holds(net))


def test_names_in_a_checkpoint_are_those_of_the_module(tmp_path: Path) -> None:
    path = one_checkpoint(tmp_path, SparseMomentumCallback(density=DENSITY))
    assert list(torch.load(path, weights_only=True)["state_dict"]) == list(TinyModule().state_dict())
