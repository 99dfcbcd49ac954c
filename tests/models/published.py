"""Sizes of the published networks, for the tests of all networks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_sparse.models import create_model


class Published(NamedTuple):
    """Parameters, weights of linear and convolutional layers, and the shape of an image."""

    parameters: int
    weights: int
    image: tuple[int, ...]
    classes: int = 10


SMALL = (3, 32, 32)
PUBLISHED = {
    "lenet-300-100": Published(266_610, 266_200, (1, 28, 28)),
    "lenet-5-caffe": Published(431_080, 430_500, (1, 28, 28)),
    "alexnet-s": Published(5_077_066, 5_066_784, SMALL),
    "alexnet-b": Published(8_501_322, 8_484_896, SMALL),
    "vgg16-c": Published(11_323_466, 11_307_712, SMALL),
    "vgg16-d": Published(15_255_626, 15_239_872, SMALL),
    "vgg16-like": Published(14_991_946, 14_977_728, SMALL),
    "wrn-28-2": Published(1_467_610, 1_463_984, SMALL),
    "wrn-22-8": Published(17_158_106, 17_147_312, SMALL),
    "wrn-16-8": Published(10_961_370, 10_954_160, SMALL),
    "wrn-16-10": Published(17_116_634, 17_107_632, SMALL),
    "resnet-50": Published(25_557_032, 25_502_912, (3, 224, 224), classes=1000),
    "mlp": Published(266_610, 266_200, (1, 28, 28)),
}


def shape_of(name: str, **options: object) -> nn.Module:
    """Return a network on the meta device, without values."""
    with torch.device("meta"):
        return create_model(name, **options)


def layers_of(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the linear and convolutional layers by name, in the order in which they are listed."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}


def parameters_of(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def images(name: str, count: int = 2, side: int | None = None, device: str = "cpu") -> Tensor:
    """Return images of the shape that a network is made for, or of another size."""
    channels, *sides = PUBLISHED[name].image
    return torch.randn(count, channels, *([side, side] if side else sides), device=device)
