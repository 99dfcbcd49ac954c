"""Perceptrons compute what their docstring defines."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, linear

from lightning_sparse.models import MLP, LeNet300100
from lightning_sparse.models.mlp import ACTIVATIONS, SReLU


def test_the_default_is_lenet_300_100_under_other_names() -> None:
    torch.manual_seed(5)
    lenet = LeNet300100()
    torch.manual_seed(5)
    mlp = MLP()
    images = torch.randn(3, 1, 28, 28)
    assert torch.equal(mlp(images), lenet(images))
    assert [name for name, _ in mlp.named_parameters()] == [
        *("hidden.0.linear.weight", "hidden.0.linear.bias", "hidden.1.linear.weight", "hidden.1.linear.bias"),
        *("output.weight", "output.bias"),
    ]


def written_out(model: MLP, features: Tensor, skips: set[int], normed: bool) -> Tensor:
    """Compute the logits of a tanh network in training, from its parameters and the docstring."""
    state = dict(model.named_parameters())
    for layer in range(len(model.hidden)):
        name = f"hidden.{layer}"
        sums = linear(features, state[f"{name}.linear.weight"], state[f"{name}.linear.bias"])
        if normed:
            norm = [state[f"{name}.norm.{part}"] for part in ("weight", "bias")]
            sums = batch_norm(sums, None, None, *norm, training=True)
        result = sums.tanh()
        features = features + result if layer in skips else result
    return linear(features, state["output.weight"], state["output.bias"])


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("hidden", "skip", "skips"),
    [
        ((6, 6, 6), False, set()),
        ((6, 6, 6), True, {1, 2}),  # not around the first layer, though the image has 6 values, too
        ((5, 7, 7, 5, 5), True, {2, 4}),
        ((3,), False, set()),
        ((), False, set()),
    ],
)
def test_layers_compute_what_the_docstring_says(
    hidden: tuple[int, ...], skip: bool, skips: set[int], normed: bool
) -> None:
    model, images = MLP(6, hidden, 4, "tanh", batch_norm=normed, skip=skip), torch.randn(8, 1, 2, 3)
    for value in model.parameters():
        nn.init.normal_(value, std=0.5)
    expected = written_out(model, images.flatten(1), skips, normed)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[("relu", 2.0, 2.0), ("relu", -2.0, 0.0)],
        *[("prelu", 2.0, 2.0), ("prelu", -2.0, -0.5)],
        *[("elu", 2.0, 2.0), ("elu", -2.0, math.exp(-2) - 1)],
        *[("swish", 2.0, 2 / (1 + math.exp(-2))), ("swish", -2.0, -2 / (1 + math.exp(2)))],
        *[("srelu", 0.3, 0.3), ("srelu", 2.0, 0.4 + 2 * 1.6), ("srelu", -2.0, -0.4 - 0.4 * 1.6)],
        *[("sigmoid", 2.0, 1 / (1 + math.exp(-2))), ("tanh", 2.0, math.tanh(2))],
    ],
)
def test_activations(name: str, value: float, expected: float) -> None:
    layer = MLP(3, (2, 2), activation=name).hidden[1].activation
    assert layer(torch.tensor([value])).item() == pytest.approx(expected, rel=1e-6)


def test_every_activation_is_tested_and_named_in_the_docstring() -> None:
    assert list(ACTIVATIONS) == ["relu", "prelu", "elu", "swish", "srelu", "sigmoid", "tanh"]
    assert all(f'"{name}"' in (MLP.__doc__ or "") for name in ACTIVATIONS)


def test_srelu_learns_thresholds_and_slopes_as_defined() -> None:
    layer = SReLU()
    with torch.no_grad():
        layer.thresholds.copy_(torch.tensor([-1.0, 2.0]))
        layer.slopes.copy_(torch.tensor([0.5, 3.0]))
    values = layer(torch.tensor([-3.0, -1.0, 0.5, 2.0, 4.0]))
    assert values.tolist() == [-2.0, -1.0, 0.5, 2.0, 8.0]
    values.sum().backward()
    # d/dl of l + a (x - l) is 1 - a, and d/da is x - l; x = -3 is below and x = 4 above.
    assert layer.thresholds.grad.tolist() == [0.5, -2.0]  # type: ignore[union-attr]  # there is a gradient
    assert layer.slopes.grad.tolist() == [-2.0, 2.0]  # type: ignore[union-attr]  # there is a gradient


@pytest.mark.parametrize("activation", ["prelu", "srelu"])
def test_each_layer_learns_its_own_activation(activation: str) -> None:
    model = MLP(3, (4, 4, 4), activation=activation)
    learned = {id(parameter) for layer in model.hidden for parameter in layer.activation.parameters()}
    assert len(learned) == 3 * len(list(ACTIVATIONS[activation]().parameters()))


def test_depth_and_width_of_a_same_capacity_comparison() -> None:
    with torch.device("meta"):
        model = MLP(3072, [3076] * 4, batch_norm=True, skip=True)
        thin = MLP(3072, [3076] * 4, batch_norm=True, skip=True, width=0.1)
    assert [layer.linear.weight.shape for layer in model.hidden] == [(3076, 3072), *[(3076, 3076)] * 3]
    assert [layer.linear.weight.shape for layer in thin.hidden] == [(308, 3072), *[(308, 308)] * 3]
    assert [layer.skip for layer in thin.hidden] == [False, True, True, True]


@pytest.mark.parametrize("hidden", [300, "300", None, (300, 0), (300, 1.5), (True,), ("3", "4"), {3: 4}], ids=str)
def test_wrong_layers_are_refused(hidden: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected .*hidden.*; got .*Cure: "):
        MLP(hidden=hidden)


@pytest.mark.parametrize("activation", ["Relu", "", None, nn.ReLU, 3, ["relu"]], ids=str)
def test_an_unknown_activation_is_refused_with_those_there_are(activation: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected an activation from relu, .*tanh; got .*Cure: use one"):
        MLP(activation=activation)


@pytest.mark.parametrize("hidden", [(300, 100), (300,), (), (5, 6, 5)], ids=str)
def test_skip_connections_without_equal_neighbours_are_refused(hidden: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"Expected neighbouring hidden layers with the same number of units.*; got .*Cure: skip="
    ):
        MLP(hidden=hidden, skip=True)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected 784 features per image; got 1024\. Cure: in_features"):
        MLP()(torch.randn(2, 1, 32, 32))
