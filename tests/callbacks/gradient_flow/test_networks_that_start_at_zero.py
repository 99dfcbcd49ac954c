"""Layers of a network that starts at zero have no gradient at first, which is no alarm; others that have none are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CLASSES, FEATURES, At, Batch, ShufflingLoader, TinyModule, fit
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_sparse import GradientFlowCallback, SparseMomentumCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


class Branch(nn.Module):
    """A residual branch whose scale is zero at first."""

    def __init__(self, scale: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.gamma = nn.Parameter(torch.full((8,), scale))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.gamma * self.inner(inputs)


def zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class AtZero(TinyModule):
    """Trains a network from a learning rate of zero on, as with a warm-up."""

    def __init__(self, network: Callable[[], nn.Module], lr: float = 0.5, warmup: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.net = network()  # type: ignore[assignment]  # any network
        self.lr, self.warmup = lr, warmup

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer: Optimizer = SGD(self.parameters(), lr=self.lr)
        schedule = LambdaLR(optimizer, lambda step: step / 100 if self.warmup else 1.0)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def last_layer() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), zeroed(nn.Linear(8, CLASSES)))


def branches() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), Branch(), Branch(), nn.Linear(8, CLASSES))


def normalized() -> nn.Module:
    network = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, CLASSES))
    nn.init.zeros_(network[1].weight)  # type: ignore[arg-type]  # a parameter
    return network


def unused() -> nn.Module:
    network = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    network[0].extra = nn.Linear(3, 3)  # without a gradient
    network[0].shift = nn.Parameter(torch.zeros(3))  # zero, but of no use
    return network


def dead() -> nn.Module:
    network = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    nn.init.constant_(network[0].bias, -100.0)  # type: ignore[arg-type]  # a parameter
    return network


def flagged(flow: GradientFlowCallback, module: TinyModule, *callbacks: Any, **options: Any) -> list[str]:
    """Train, and return what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(flow, *callbacks, module=module, **options)
    return [str(each.message) for each in caught if "vanishing" in str(each.message)]


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("batches", [None, [next(iter(ShufflingLoader()))]], ids=["steps", "fixed"])
@pytest.mark.parametrize("network", [last_layer, branches, normalized])
def test_a_network_that_starts_at_zero_is_no_alarm(network: Any, batches: Any, warmup: bool) -> None:
    flow = GradientFlowCallback(every_n_steps=1, batches=batches)
    assert flagged(flow, AtZero(network, warmup=warmup), max_epochs=1) == []
    assert all(record.flags == {} for record in flow.history)
    levels = [norms["l2"] for norms in flow.history[0].layers.values()]
    assert (0.0 in levels) == (batches is None or warmup)  # fixed batches are measured after the first step


def test_a_sparse_network_that_starts_at_zero_is_no_alarm() -> None:
    flow, sparse = GradientFlowCallback(every_n_steps=1), SparseMomentumCallback(density=0.8, exclude="net.4")
    assert flagged(flow, AtZero(last_layer), sparse, max_epochs=1) == []
    assert 0.0 in [norms["l2"] for norms in flow.history[0].layers.values()]


@pytest.mark.parametrize(("network", "layer"), [(unused, "net.0.extra.weight"), (dead, "net.0.weight")])
def test_layers_that_never_have_a_gradient_are_an_alarm_at_the_first_step(network: Any, layer: str) -> None:
    flow = GradientFlowCallback(every_n_steps=1)
    (warning,) = flagged(flow, AtZero(network), max_epochs=1)
    assert f"epoch 0, step 0: {layer}" in warning
    assert all(record.flags[layer] == "vanishing" for record in flow.history)


def test_layers_without_a_gradient_are_an_alarm_when_the_rest_has_grown() -> None:
    def both() -> nn.Module:
        network = last_layer()
        network[2].extra = nn.Linear(3, 3)  # type: ignore[index]  # of a sequence
        return network

    flow = GradientFlowCallback(every_n_steps=1)
    (warning,) = flagged(flow, AtZero(both))
    assert "epoch 0, step 1: net.2.extra.weight" in warning
    assert flow.history[0].flags == {}
    assert all(set(record.flags) == {"net.2.extra.weight"} for record in flow.history[1:])


def test_layers_that_fade_later_are_an_alarm() -> None:
    def fade(run: Any, module: Any) -> None:
        if run.global_step == 5:
            with torch.no_grad():
                module.net[3].weight.zero_()

    flow = GradientFlowCallback(every_n_steps=1)
    assert flagged(flow, AtZero(branches), At("on_train_batch_start", fade)) != []
    assert [bool(record.flags) for record in flow.history][:6] == [False] * 5 + [True]


def test_explosions_are_flagged_also_at_the_start() -> None:
    flow = GradientFlowCallback(every_n_steps=1, exploding=1e-9)
    with pytest.warns(UserWarning, match="exploding gradients"):
        fit(flow, module=AtZero(last_layer), max_steps=1)
    assert flow.history[0].flags == {"net.4.weight": "exploding"}


@pytest.mark.parametrize("batches", [None, [next(iter(ShufflingLoader()))]], ids=["steps", "fixed"])
def test_a_resumed_run_has_the_flags_of_the_whole_one(batches: Any, tmp_path: Path) -> None:
    def save(run: Any, _: Any) -> None:
        if run.global_step == 2:
            run.save_checkpoint(tmp_path / "one.ckpt")

    flows = [GradientFlowCallback(every_n_steps=1, batches=batches) for _ in range(2)]
    assert flagged(flows[0], AtZero(branches, lr=0.02), At("on_train_batch_end", save)) == []
    assert flagged(flows[1], AtZero(branches, lr=0.02), ckpt_path=str(tmp_path / "one.ckpt")) == []
    assert flows[0].history == flows[1].history
    state = next(iter(torch.load(tmp_path / "one.ckpt", weights_only=True)["callbacks"].values()))
    assert state["zero_start"] == ["net.1.gamma", "net.2.gamma"]
    assert state["measurements"]["starting"].all()


def test_the_state_of_other_networks_has_no_such_entries() -> None:
    states: list[dict[str, Any]] = []
    flow = GradientFlowCallback()
    fit(flow, At("on_train_end", lambda *_: states.append(flow.state_dict())))
    assert set(states[0]) == {"measurements", "steps", "probed", "logged", "version", "checksum"}
    assert set(states[0]["measurements"]) == {"kinds", "places", "values"}
