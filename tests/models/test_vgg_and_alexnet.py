"""VGG16 and AlexNet have the layers that their docstrings state, in that order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_sparse.models import VGG16, AlexNet


def kinds(layers: nn.Sequential) -> str:
    return " ".join(type(layer).__name__ for layer in layers)


def convolutions(model: VGG16 | AlexNet) -> list[nn.Conv2d]:
    return [layer for layer in model.features if isinstance(layer, nn.Conv2d)]


def linear_sizes(model: VGG16 | AlexNet) -> list[tuple[int, int]]:
    return [(layer.in_features, layer.out_features) for layer in model.classifier if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(("variant", "third"), [("C", 1), ("D", 3), ("like", 3)])
def test_vgg16_has_thirteen_convolutions_in_five_blocks(variant: Any, third: int) -> None:
    with torch.device("meta"):
        model = VGG16(variant)
    one, block = "Conv2d BatchNorm2d ReLU", "MaxPool2d"
    assert kinds(model.features) == " ".join([*[one, one, block] * 2, *[one, one, one, block] * 3])
    channels = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    kernels = [3, 3, 3, 3, *[3, 3, third] * 3]
    found = [(layer.out_channels, layer.kernel_size, layer.padding, layer.stride) for layer in convolutions(model)]
    assert found == [(out, (kernel, kernel), (1, 1), (1, 1)) for out, kernel in zip(channels, kernels, strict=True)]


@pytest.mark.parametrize(
    ("variant", "sizes"),
    [
        ("C", [(2048, 512), (512, 512), (512, 10)]),
        ("D", [(512, 512), (512, 512), (512, 10)]),
        ("like", [(512, 512), (512, 10)]),
    ],
)
def test_vgg16_classifiers(variant: Any, sizes: list[tuple[int, int]]) -> None:
    with torch.device("meta"):
        model = VGG16(variant)
    assert linear_sizes(model) == sizes
    assert kinds(model.classifier) == "Linear ReLU BatchNorm1d " * (len(sizes) - 1) + "Linear"


@pytest.mark.parametrize(("variant", "hidden"), [("s", 1024), ("b", 2048)])
def test_alexnet_has_five_strided_convolutions_and_no_pooling(variant: Any, hidden: int) -> None:
    with torch.device("meta"):
        model = AlexNet(variant)
    assert kinds(model.features) == " ".join(["Conv2d BatchNorm2d ReLU"] * 5)
    assert [(layer.out_channels, layer.kernel_size[0], layer.padding[0]) for layer in convolutions(model)] == [
        (96, 11, 2),
        (256, 5, 2),
        (384, 3, 1),
        (384, 3, 1),
        (256, 3, 1),
    ]
    assert {layer.stride for layer in convolutions(model)} == {(2, 2)}
    assert kinds(model.classifier) == "Linear BatchNorm1d ReLU Linear BatchNorm1d ReLU Linear"
    assert linear_sizes(model) == [(256, hidden), (hidden, hidden), (hidden, 10)]


@pytest.mark.parametrize("network", [VGG16, AlexNet])
@pytest.mark.parametrize("variant", ["E", "", "d", None, 16, ["D"]], ids=str)
def test_an_unknown_variant_is_refused_with_those_there_are(network: Any, variant: object) -> None:
    with pytest.raises(ValueError, match=r"Expected a variant of \w+: '.'.* or '\w+'; got .*Cure: use one"):
        network(variant)
