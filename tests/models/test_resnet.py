"""ResNet-50 is torchvision's, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_sparse.models import ResNet50

torchvision = pytest.importorskip("torchvision")


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    ours = ResNet50(num_classes=10)
    torch.manual_seed(1)
    return ours, torchvision.models.resnet50(num_classes=10)


def test_the_same_seed_makes_the_same_network() -> None:
    ours, theirs = (model.state_dict() for model in pair())
    assert list(ours) == list(theirs)
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_outputs_and_gradients_are_the_same() -> None:
    models, batch = pair(), torch.randn(2, 3, 32, 32)
    outputs = [model(batch) for model in models]
    for output in outputs:
        cross_entropy(output, torch.tensor([3, 5])).backward()
    assert torch.equal(*outputs)
    gradients = ([parameter.grad for parameter in model.parameters()] for model in models)
    assert all(torch.equal(*both) for both in zip(*gradients, strict=True))  # type: ignore[arg-type]  # all have one
    ours, theirs = (model.eval()(batch) for model in models)
    assert torch.equal(ours, theirs)


def test_stride_2_is_in_the_3_x_3_convolution() -> None:
    with torch.device("meta"):
        strided = {
            name: layer.kernel_size
            for name, layer in ResNet50().named_modules()
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)
        }
    assert strided == {
        "conv1": (7, 7),
        **{f"layer{stage}.0.conv2": (3, 3) for stage in (2, 3, 4)},
        **{f"layer{stage}.0.downsample.0": (1, 1) for stage in (2, 3, 4)},
    }
