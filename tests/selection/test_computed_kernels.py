"""Layers whose kernels are computed from their weights so that zeros are filled are told from all others."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_sparse.selection import computed_kernels
from lightning_sparse.selection.computed_kernels import COMPUTED, has_computed_kernel
from lightning_sparse.selection.weights import find_trained, find_weights, undecided_weights, why_unmasked


def standardized(weight: Tensor) -> Tensor:
    axes = tuple(range(1, weight.dim()))
    return (weight - weight.mean(axes, keepdim=True)) / (weight.std(axes, keepdim=True) + 1e-5)


# Layers that fill the zeros of their weights


class StandardizedConv(nn.Conv2d):
    """Weight standardization (Qiao et al. 2019)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self._conv_forward(inputs, standardized(self.weight), self.bias)


class BatchNormalizedConv(nn.Conv2d):
    """The same by a function for batches, with a gain."""

    def __init__(self, *shape: int) -> None:
        super().__init__(*shape)
        self.gain = nn.Parameter(torch.zeros(self.out_channels, 1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(rows, None, None, weight=self.gain.view(-1), training=True, momentum=0.0)
        return functional.conv2d(inputs, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)


class ByConvForward(nn.Conv1d):
    """Overrides only what PyTorch calls inside of forward."""

    def _conv_forward(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(inputs, standardized(weight), bias)


class SignLinear(nn.Linear):
    """Two values, none of them zero, with a straight-through gradient."""

    def forward(self, inputs: Tensor) -> Tensor:
        signs = torch.where(self.weight >= 0, 1.0, -1.0)
        return inputs @ (self.weight + (signs - self.weight).detach()).t()


class MergedLinear(nn.Linear):
    """A low-rank term, zero at first, is added to the weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.ones(2, inputs)), nn.Parameter(torch.zeros(outputs, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight + self.up @ self.down, self.bias)


class InPlaceLinear(nn.Linear):
    """The stored weight itself is centered before each use."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.sub_(self.weight.mean(1, keepdim=True))
        return super().forward(inputs)


class OrthogonalLinear(nn.Linear):
    """A step of an iteration towards an orthogonal matrix."""

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight / self.weight.norm()
        return functional.linear(inputs, 1.5 * weight - 0.5 * weight @ weight.t() @ weight, self.bias)


class TransposedConv(nn.ConvTranspose2d):
    """A transposed convolution, of sequences as well, of which it needs one."""

    def forward(self, inputs: Tensor, output_size: Any = None) -> Tensor:
        return functional.conv_transpose2d(inputs, standardized(self.weight), self.bias, self.stride, self.padding)


class OfSequences(nn.Linear):
    """Takes three dimensions only."""

    def forward(self, inputs: Tensor) -> Tensor:
        batch, length, _ = inputs.shape
        return torch.einsum("blf,of->blo", inputs, standardized(self.weight)).view(batch, length, -1)


class WithChild(nn.Conv2d):
    """A module of its own makes the kernel."""

    def __init__(self, *shape: int) -> None:
        super().__init__(*shape)
        self.norm = nn.LayerNorm(self.weight[0].shape)

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.conv2d(inputs, self.norm(self.weight), self.bias, self.stride, self.padding)


def zeroed(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


FILLING: dict[str, Callable[[], nn.Module]] = {
    "standardized": lambda: StandardizedConv(4, 6, 3),
    "standardized, depthwise": lambda: StandardizedConv(6, 6, 3, groups=6, padding=1),
    "standardized, wide": lambda: StandardizedConv(4, 6, 7, padding=9, padding_mode="circular", dilation=2, stride=2),
    "standardized, half precision": lambda: StandardizedConv(4, 6, 3).bfloat16(),
    "standardized, zero at first": lambda: zeroed(StandardizedConv(4, 6, 3)),
    "normalized as a batch": lambda: BatchNormalizedConv(4, 6, 3),
    "standardized inside of forward": lambda: ByConvForward(4, 6, 3),
    "signs": lambda: SignLinear(6, 5),
    "a term is added": lambda: MergedLinear(6, 5),
    "changed in place": lambda: InPlaceLinear(6, 5),
    "orthogonalized": lambda: OrthogonalLinear(8, 8),
    "transposed": lambda: TransposedConv(4, 6, 3),
    "of sequences": lambda: OfSequences(6, 5),
    "by a child": lambda: WithChild(4, 6, 3),
}


# Layers that keep them


class SamePadding(nn.Conv2d):
    """Pads by itself."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(inputs, (1, 1, 1, 1)), self.weight, self.bias, self.stride)


class WithActivation(nn.Linear):
    """Normalizes what comes out, and multiplies it with itself."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        return (outputs @ outputs.t()).softmax(-1) @ outputs


class Casting(nn.Linear):
    """Computes in another precision."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs.bfloat16(), self.weight.bfloat16()).to(inputs.dtype)


class Autocasting(nn.Linear):
    """Computes in another precision as well."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(inputs)


class FakeQuantized(nn.Linear):
    """Rounds to 16 values, of which one is zero."""

    def forward(self, inputs: Tensor) -> Tensor:
        weight = torch.fake_quantize_per_tensor_affine(self.weight, 0.1, 0, -8, 7)
        return functional.linear(inputs, weight, self.bias)


class SpectrallyNormalized(nn.Linear):
    """Divides by the largest singular value, which two products with vectors estimate."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("vector", torch.ones(outputs))
        self.vector: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            other = functional.normalize(self.vector @ self.weight, dim=0)
            self.vector.copy_(functional.normalize(self.weight @ other, dim=0))
        scale = torch.matmul(self.vector, torch.matmul(self.weight, other))
        return functional.linear(inputs, self.weight / scale, self.bias)


class Stored(nn.Linear):
    """Stores its weight the other way round."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight.t().contiguous(), self.bias)


class Slimmable(nn.Linear):
    """Uses a part of its weight."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs[:, :40], self.weight[:24, :40])


class Noisy(nn.Linear):
    """Adds noise to its weight in training only (Fortunato et al. 2018)."""

    def forward(self, inputs: Tensor) -> Tensor:
        noise = torch.randn_like(self.weight) * random.random() if self.training else 0.0
        return functional.linear(inputs, self.weight + noise, self.bias)


class Masked(nn.Conv2d):
    """Sees the past only."""

    def forward(self, inputs: Tensor) -> Tensor:
        past = torch.ones_like(self.weight)
        past[:, :, 1:] = 0
        return functional.conv2d(inputs, self.weight * past, self.bias)


class OwnFunction(torch.autograd.Function):
    """A product with a backward pass of its own."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(inputs, weight)
        return functional.linear(inputs, weight)


class ByOwnFunction(nn.Linear):
    """Calls a function of its own."""

    def forward(self, inputs: Tensor) -> Tensor:
        return OwnFunction.apply(inputs, self.weight)  # type: ignore[no-any-return]  # untyped


class InputInPlace(nn.Linear):
    """Changes its input."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.relu_())


class Compiled(nn.Linear):
    """Compiles its forward pass."""

    @torch.compile(backend="eager")
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)


@torch.compile(backend="eager")
def clipped(weight: Tensor) -> Tensor:
    return weight.clamp(-1, 1)


class ByCompiledFunction(nn.Linear):
    """Calls a compiled function."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, clipped(self.weight), self.bias)


class Renormed(nn.Conv2d):
    """Bounds the norms of its filters before each use, as networks for EEG do."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=1.0)
        return super().forward(inputs)


KEEPING: dict[str, Callable[[], nn.Module]] = {
    "padding": lambda: SamePadding(4, 6, 3),
    "padding, one channel": lambda: SamePadding(1, 1, 2),
    "afterwards": lambda: WithActivation(6, 5),
    "cast": lambda: Casting(6, 5),
    "autocast": lambda: Autocasting(6, 5),
    "quantized": lambda: FakeQuantized(6, 5),
    "spectral norm": lambda: SpectrallyNormalized(6, 5),
    "stored transposed": lambda: Stored(6, 5),
    "a part": lambda: Slimmable(64, 32),
    "noise in training": lambda: Noisy(6, 5),
    "masked": lambda: Masked(4, 6, 3),
    "a function": lambda: ByOwnFunction(6, 5),
    "input in place": lambda: InputInPlace(6, 5),
    "compiled": lambda: Compiled(6, 5),
    "a compiled function": lambda: ByCompiledFunction(6, 5),
    "renormed": lambda: Renormed(4, 6, 3),
}


@pytest.mark.parametrize("make", FILLING.values(), ids=FILLING)
def test_a_layer_that_fills_zeros_is_found(make: Callable[[], nn.Module]) -> None:
    assert has_computed_kernel(make(), "weight") is True


@pytest.mark.parametrize("make", KEEPING.values(), ids=KEEPING)
def test_a_layer_that_keeps_zeros_is_not_taken_for_one_that_fills_them(make: Callable[[], nn.Module]) -> None:
    assert has_computed_kernel(make(), "weight") is False


# Layers of which a copy can't be called


class Conditioned(nn.Linear):
    """Needs a second input."""

    def forward(self, inputs: Tensor, scale: Tensor) -> Tensor:
        return super().forward(inputs) * scale


class Linked(nn.Linear):
    """Holds what can't be copied."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.lines = (line for line in ())

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)


class Elementwise(nn.Linear):
    """Multiplies without a product of matrices."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs[..., None, :] * self.weight).sum(-1)


class Custom(nn.Module):
    """A layer of a user, which might take anything."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 6))

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, standardized(self.weight))


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "two inputs": lambda: Conditioned(6, 5),
    "no copy": lambda: Linked(6, 5),
    "elementwise": lambda: Elementwise(6, 5),
    "any input": Custom,
    "no values": lambda: StandardizedConv(4, 6, 3).to("meta"),
}


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=UNKNOWN)
def test_of_a_layer_whose_copy_says_nothing_nothing_is_known(make: Callable[[], nn.Module]) -> None:
    assert has_computed_kernel(make(), "weight") is None


@pytest.mark.parametrize("layer", [nn.Linear(3, 3), nn.Conv2d(3, 3, 1), nn.LSTM(3, 3), nn.Bilinear(3, 3, 3)])
def test_layers_of_pytorch_are_known_and_not_called(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computed_kernels, "_verdict", lambda *_: pytest.fail("called"))
    assert has_computed_kernel(layer, next(iter(layer._parameters))) is False


def test_a_layer_is_looked_at_once_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[nn.Module] = []

    class Watched(SpectrallyNormalized):
        def forward(self, inputs: Tensor) -> Tensor:
            called.append(self)
            random.random()
            return super().forward(functional.dropout(inputs))

    layer = Watched(6, 5).eval()
    layer.register_forward_hook(lambda *_: pytest.fail("a hook was called"))
    layer.register_forward_pre_hook(lambda *_: pytest.fail("a hook was called"))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    with torch.inference_mode():
        assert has_computed_kernel(layer, "weight") is False
    count = len(called)
    assert has_computed_kernel(layer, "weight") is False
    assert count == len(called) > 0
    assert all(each is not layer for each in called)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert not layer.training
    assert all(parameter.grad is None for parameter in layer.parameters())


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="before PyTorch 2.6, it is compiled")
def test_nothing_is_compiled_to_look_at_a_layer() -> None:
    counted = torch._dynamo.utils.counters["stats"]
    before = counted["unique_graphs"]
    assert has_computed_kernel(ByCompiledFunction(7, 5), "weight") is False
    assert has_computed_kernel(Compiled(7, 5), "weight") is False
    assert counted["unique_graphs"] == before


# Which weights are masked


def model() -> nn.Sequential:
    return nn.Sequential(
        StandardizedConv(3, 4, 3), nn.ReLU(), SamePadding(4, 4, 3), nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 2)
    )


def test_by_default_layers_that_fill_zeros_stay_dense_and_the_reason_is_given() -> None:
    assert list(find_weights(model())) == ["2.weight", "4.weight", "5.weight"]
    assert why_unmasked(model())["0.weight"] == COMPUTED


@pytest.mark.parametrize("include", [nn.Conv2d, "*", "0*", "[02].weight", ["default", "*.weight"]])
def test_patterns_that_mean_others_as_well_leave_them_dense(include: Any) -> None:
    network = nn.Sequential(*model()[:3])
    network.append(nn.Conv2d(4, 4, 1))
    network[0].also = nn.Linear(2, 2)
    assert "0.weight" not in find_weights(network, include=include)
    assert why_unmasked(network, include=include)["0.weight"] == COMPUTED


@pytest.mark.parametrize("include", ["0", "0.weight", "StandardizedConv", StandardizedConv])
def test_they_are_masked_if_they_are_included_by_their_own_name(include: Any) -> None:
    assert list(find_weights(model(), include=include)) == ["0.weight"]
    others = ["2.weight", "4.weight", "5.weight"]
    assert list(find_weights(model(), include=["default", include])) == ["0.weight", *others]
    assert list(find_weights(model(), include=["default", include], exclude="0")) == others


def test_a_model_of_such_layers_only_is_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match=r"at least one weight.*0\.weight \(its layer computes.*choose from 0\.weight"):
        find_weights(nn.Sequential(StandardizedConv(3, 4, 3)))


def test_they_can_be_left_out_by_name_as_others_can() -> None:
    assert list(find_weights(model(), exclude="0")) == ["2.weight", "4.weight", "5.weight"]
    assert why_unmasked(model(), exclude="0")["0.weight"] == "excluded on request"


def test_a_weight_that_another_layer_uses_as_it_is_keeps_its_zeros() -> None:
    tied = model()
    tied.append(nn.Conv2d(3, 4, 3))
    tied[6].weight = tied[0].weight
    assert "0.weight" in find_weights(tied)


def test_their_gradients_are_measured_as_those_of_others() -> None:
    assert list(find_trained(model())) == ["0.weight", "2.weight", "4.weight", "5.weight"]


def test_what_only_use_can_tell_is_masked_and_listed() -> None:
    network = nn.ModuleList([Conditioned(4, 4), nn.Linear(4, 4), StandardizedConv(3, 4, 3), Custom()])
    assert list(find_weights(network)) == ["0.weight", "1.weight"]
    assert list(undecided_weights(network, None, None)) == ["0.weight"]
    assert list(undecided_weights(network, ["default", "3*"], None)) == ["0.weight", "3.weight"]
    assert list(undecided_weights(network, ["default", "3"], None)) == ["0.weight"]
    assert list(undecided_weights(network, ["Conditioned", "3"], None)) == []
