"""Random masks for weights that were trained or loaded are warned of; those for new networks never are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, Optimizer

from lightning_sparse import SparseNetwork
from lightning_sparse.network.first_masks.training_signs import has_stepped, signs_of_training

WARNING = r"Expected weights as they are initialized, for random masks; got signs .*{}.*Cure: initial_masks='magnitude'"


class Scale(nn.Module):
    """A normalization of a package's own: a gain, no bias."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weight * inputs / inputs.square().mean(-1, keepdim=True).add(1e-6).sqrt()


class RMSNormOfAPackage(Scale):
    """Its name says that it is one."""


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "batch without statistics": lambda features: nn.BatchNorm1d(features, track_running_stats=False),
    "layer": nn.LayerNorm,
    "group": lambda features: nn.GroupNorm(2, features),
    "rms": nn.RMSNorm,
    "of a package": RMSNormOfAPackage,
}


def network(norm: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), NORMS[norm](8), nn.ReLU(), nn.Linear(8, 4))


def train(model: nn.Module, steps: int = 12) -> None:
    optimizer = SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 6)).square().sum(1).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("norm", NORMS)
def test_a_trained_network_is_warned_of_and_a_new_one_is_not(norm: str) -> None:
    model = network(norm)
    assert signs_of_training(model, ["0.weight"]) == []
    SparseNetwork(model, density=0.5)
    trained = network(norm)
    train(trained)
    with pytest.warns(UserWarning, match=WARNING.format("gains and biases of 1 that differ")):
        SparseNetwork(copy.deepcopy(trained), density=0.5)
    loaded = network(norm)
    loaded.load_state_dict(trained.state_dict())
    with pytest.warns(UserWarning, match=WARNING.format("gains and biases of 1")):
        SparseNetwork(loaded, density=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"density": 0.5, "initial_masks": "magnitude"},
        {"density": 0.5, "initial_masks": lambda layer: -layer.weight.abs()},
        {"density": 1},
        {"masks": {"0.weight": torch.ones(8, 6), "3.weight": torch.eye(4, 8)}},
    ],
    ids=["magnitude", "a rule", "dense", "masks"],
)
def test_other_masks_of_trained_weights_are_not_warned_of(options: dict[str, Any]) -> None:
    model = network("layer")
    train(model)
    SparseNetwork(model, **options)  # warnings are errors


def test_counted_batches_are_a_sign_but_a_few_are_none() -> None:
    counted = network("batch")
    for _ in range(10):
        counted(torch.randn(16, 6))
    SparseNetwork(copy.deepcopy(counted), density=0.5)
    counted(torch.randn(16, 6))
    with pytest.warns(UserWarning, match=WARNING.format("batches counted by 1")):
        SparseNetwork(counted, density=0.5)


class Head(nn.Module):
    """A pretrained body and a new head."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_new_head_beside_a_pretrained_body_is_new(frozen: bool) -> None:
    body = network("batch")
    train(body)
    model = Head(body.requires_grad_(not frozen))
    SparseNetwork(copy.deepcopy(model), density=0.5, include="head*")
    with pytest.warns(UserWarning, match=WARNING.format("body.1")):
        SparseNetwork(Head(copy.deepcopy(body).requires_grad_(True)), density=0.5)


def dcgan(module: nn.Module) -> None:
    """Draw gains, as generative networks are often initialized."""
    if isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


FRESH: dict[str, Callable[[], nn.Module]] = {
    "drawn gains": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)).apply(dcgan),
    "zero gains": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)).apply(
        lambda module: nn.init.zeros_(module.weight) if isinstance(module, nn.BatchNorm2d) else None
    ),
    "without gains": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 4, 3)),
    "transformer": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 64, batch_first=True), 2, nn.LayerNorm(8)
    ),
    "instance": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 4, 3)),
    "local response": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.LocalResponseNorm(2), nn.Conv2d(8, 4, 3)),
    "without normalization": lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)),
    "half": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)).bfloat16(),
}


@pytest.mark.parametrize("kind", FRESH)
def test_networks_as_they_are_initialized_show_no_signs(kind: str) -> None:
    model = FRESH[kind]()
    assert signs_of_training(model, dict(model.named_parameters())) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda weights: SGD(weights, lr=0.1, momentum=0.9),
        lambda weights: Adam(weights),
        lambda weights: Adagrad(weights),
    ],
    ids=["sgd", "adam", "adagrad"],
)
def test_an_optimizer_that_has_stepped_shows_it_and_one_that_has_a_state_alone_does_not(
    make: Callable[[list[nn.Parameter]], Optimizer],
) -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    optimizer = make([weight])
    assert not has_stepped(optimizer, weight)
    weight.grad = torch.ones(3, 3)
    optimizer.step()
    assert has_stepped(optimizer, weight)
