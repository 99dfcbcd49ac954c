"""Wide residual networks have the blocks, the dropout and the first weights that their docstring states."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, linear

from lightning_sparse.models import WideResNet
from lightning_sparse.models.wide_resnet import WideBlock


def written_out(state: dict[str, Tensor], images: Tensor, blocks: int) -> Tensor:
    """Compute the logits of a network without dropout, in training, from its parameters and the paper."""

    def active(name: str, maps: Tensor) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return batch_norm(maps, None, None, weight, bias, training=True).clamp_min(0)

    maps = conv2d(images, state["conv1.weight"], padding=1)
    for group in (1, 2, 3):
        for block in range(blocks):
            name, stride = f"group{group}.{block}", 2 if group > 1 and block == 0 else 1
            first = active(f"{name}.bn1", maps)
            change = conv2d(first, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            change = conv2d(active(f"{name}.bn2", change), state[f"{name}.conv2.weight"], padding=1)
            maps = change + (maps if block else conv2d(first, state[f"{name}.shortcut.weight"], stride=stride))
    return linear(active("bn", maps).mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])


def test_logits_are_those_of_the_paper_written_out() -> None:
    model, images = WideResNet(16, 2, dropout=0.0), torch.randn(4, 3, 32, 32)
    for value in model.parameters():  # no parameter is left at a zero or one that would hide it
        nn.init.normal_(value, std=0.3)
    expected = written_out(dict(model.named_parameters()), images, blocks=2)
    torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("depth", "widen_factor"), [(28, 2), (22, 8), (16, 8), (16, 10), (40, 1)])
def test_depth_counts_the_convolutions_and_k_widens_them(depth: int, widen_factor: int) -> None:
    with torch.device("meta"):
        model = WideResNet(depth, widen_factor)
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    # With k = 1 the first group has as many channels as its input, which needs no convolution.
    needed = [f"group{group}.0.shortcut" for group in (1, 2, 3) if widen_factor > 1 or group > 1]
    assert [name for name in layers if "shortcut" in name] == needed
    assert len(layers) - len(needed) + 3 == depth
    maps, shapes = torch.empty(2, 3, 32, 32, device="meta"), []
    for part in (model.conv1, model.group1, model.group2, model.group3):
        maps = part(maps)
        shapes.append(tuple(maps.shape[1:3]))
    assert shapes == [(16, 32), (16 * widen_factor, 32), (32 * widen_factor, 16), (64 * widen_factor, 8)]


def test_first_weights_are_those_of_the_authors_code() -> None:
    model = WideResNet(16, 8)
    for layer in (model.conv1, model.group2[0].conv1, model.group3[0].shortcut, model.group3[1].conv2):
        deviation = math.sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2))
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.1)
        assert layer.weight.abs().max() > 2.5 * deviation  # normal, not uniform
        assert layer.bias is None
    assert model.fc.bias.abs().sum() == 0
    assert model.fc.weight.abs().max() <= 1 / math.sqrt(512)  # PyTorch's own bounds


def test_dropout_is_between_the_convolutions_and_in_training_only() -> None:
    with torch.device("meta"):
        rates = [layer.p for layer in WideResNet().modules() if isinstance(layer, nn.Dropout)]
    assert rates == [0.3] * 12
    dropped: list[float] = []
    block = WideBlock(16, 16, 1, dropout=0.5)
    block.conv2.register_forward_pre_hook(lambda _, inputs: dropped.append((inputs[0] == 0).float().mean().item()))
    for training in (True, False):
        block.train(training)(torch.randn(8, 16, 8, 8))
    assert dropped[0] == pytest.approx(0.75, abs=0.05)  # ReLU drops one half, dropout half of the rest
    assert dropped[1] == pytest.approx(0.5, abs=0.05)


def test_without_dropout_training_is_repeatable() -> None:
    images = torch.randn(2, 3, 32, 32)
    for dropout, equal in ((0.0, True), (0.3, False)):
        model = WideResNet(10, 1, dropout=dropout)
        assert torch.equal(model(images), model(images)) == equal


@pytest.mark.parametrize(
    "options",
    [
        *({"depth": depth} for depth in (4, 11, 27, 0, 16.0, "16", True)),
        *({"widen_factor": factor} for factor in (0, -1, 1.5, True)),
        *({"dropout": dropout} for dropout in (-0.1, 1.0, float("nan"), "0.3", True)),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"Expected .*{name}.*; got .*Cure: "):
        WideResNet(**options)  # type: ignore[arg-type]  # wrong on purpose
