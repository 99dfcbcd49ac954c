"""The networks have the published sizes and compute what their docstrings define."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_sparse.models import LeNet5Caffe, LeNet300100


def count(model: nn.Module, name: str = "") -> int:
    return sum(parameter.numel() for key, parameter in model.named_parameters() if key.endswith(name))


@pytest.mark.parametrize(
    ("model", "parameters", "weights"),
    [(LeNet300100(), 266_610, 266_200), (LeNet5Caffe(), 431_080, 430_500)],
    ids=["LeNet300100", "LeNet5Caffe"],
)
def test_sizes_are_the_published_ones(model: nn.Module, parameters: int, weights: int) -> None:
    assert (count(model), count(model, "weight")) == (parameters, weights)


def test_layers_have_the_documented_names() -> None:
    assert [name for name, _ in LeNet300100().named_children()] == ["fc1", "fc2", "fc3"]
    assert [name for name, _ in LeNet5Caffe().named_children()] == ["conv1", "conv2", "fc1", "fc2"]


def test_lenet_300_100_is_a_perceptron_with_two_hidden_layers() -> None:
    model, images = LeNet300100(), torch.randn(4, 1, 28, 28)
    layers = nn.Sequential(nn.Flatten(), model.fc1, nn.ReLU(), model.fc2, nn.ReLU(), model.fc3)
    assert torch.equal(model(images), layers(images))


def test_lenet_5_has_relu_after_convolutions_and_hidden_units() -> None:
    model, images = LeNet5Caffe(), torch.randn(4, 1, 28, 28)
    features = functional.max_pool2d(model.conv1(images).relu(), 2)
    features = functional.max_pool2d(model.conv2(features).relu(), 2)
    assert torch.equal(model(images), model.fc2(model.fc1(features.reshape(4, 800)).relu()))


def test_other_images_and_classes() -> None:
    assert LeNet300100(in_features=192, num_classes=3)(torch.randn(2, 3, 8, 8)).shape == (2, 3)
    assert LeNet5Caffe(in_channels=3, num_classes=7)(torch.randn(2, 3, 28, 28)).shape == (2, 7)


@pytest.mark.parametrize("model", [LeNet300100(), LeNet5Caffe()], ids=["LeNet300100", "LeNet5Caffe"])
def test_images_of_another_size_are_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"Expected (784 features per image|images \(batch, 1, 28, 28\)); got"):
        model(torch.randn(2, 1, 32, 32))
