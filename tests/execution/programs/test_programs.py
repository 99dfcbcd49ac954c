"""Programs compute what modules do: whole networks by chains, parts of them, or not at all."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sparse_rows import needs_kernels, random
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import densenet121, mobilenet_v2, resnet18

from lightning_sparse.execution import replace_forward
from lightning_sparse.execution.chains import MaskedWeight
from lightning_sparse.execution.programs.program import Program

pytestmark = needs_kernels


class Masked:
    """A module whose linear and convolutional weights are masked, run by a program."""

    def __init__(self, module: nn.Module, density: float = 0.3) -> None:
        self.module, self.masks = module, dict[int, Tensor]()
        generator = torch.Generator().manual_seed(0)
        for each in module.modules():
            if isinstance(each, (nn.Conv2d, nn.Linear)):
                mask = torch.rand(each.weight.shape, generator=generator) < density
                each.weight.data.mul_(mask)
                self.masks[id(each.weight)] = mask
        self.original = copy.deepcopy(module)
        self.program = Program(self.weight_of, self.is_masked)
        self.handle = replace_forward(module, self.program)

    def weight_of(self, parameter: nn.Parameter) -> MaskedWeight[Any]:
        return MaskedWeight(parameter, lambda: self.masks[id(parameter)])

    def is_masked(self, module: nn.Module) -> bool:
        return id(getattr(module, "weight", None)) in self.masks

    def parts(self) -> list[int]:
        """Return the numbers of operations of the parts that ran as chains, by mode; with gradients, if there were."""
        known = self.program._compiled
        learns = any(key[-1] for key in known)
        compiled = [each for key, each in known.items() if each is not None and key[-1] is learns]
        return [len(part.run.operations) for each in compiled for part in each.parts if part.has_chain]

    def gradients(self, module: nn.Module, inputs: Tensor, errors: Tensor) -> list[Tensor]:
        module.zero_grad()
        output = module(inputs)
        output.backward(errors)
        found = [output.detach(), *module.buffers()]
        for mine, parameter in zip(self.module.parameters(), module.parameters(), strict=True):
            assert parameter.grad is not None
            found.append(parameter.grad * self.masks.get(id(mine), torch.ones(())))
        return found


def assert_same(masked: Masked, inputs: Tensor, rtol: float = 1e-3, atol: float = 5e-4) -> None:
    """Check the output, the gradients and the buffers in both modes."""
    for training in (True, False):
        masked.module.train(training)
        masked.original.train(training)
        with torch.no_grad():
            errors = random(*masked.original(inputs).shape, seed=5)
            masked.module(inputs)
        expected = masked.gradients(masked.original, inputs, errors)
        for one, other in zip(masked.gradients(masked.module, inputs, errors), expected, strict=True):
            scale = float(other.abs().max()) if other.is_floating_point() and other.numel() else 1.0
            assert_close(one, other, rtol=rtol, atol=atol * max(scale, 1.0))


class Residual(nn.Module):
    """As torchvision writes its blocks, with operations in place and a projection."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels * stride, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels * stride)
        self.conv2 = nn.Conv2d(channels * stride, channels * stride, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels * stride)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride > 1:
            layers = nn.Conv2d(channels, channels * stride, 1, stride), nn.BatchNorm2d(channels * stride)
            self.down = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(inputs)))))
        output += inputs if self.down is None else self.down(inputs)
        return self.relu(output)


def plain() -> nn.Module:
    """A network without normalization, with dropout, whose head flattens maps."""
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 6 * 6, 20), nn.ReLU(), nn.Dropout(0.0), nn.Linear(20, 4))


def residual() -> nn.Module:
    blocks = [Residual(6), Residual(6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)]
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), *blocks)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "plain": (plain, (18, 3, 16, 16), 10),
    "residual": (residual, (18, 3, 16, 16), 22),
    "linear": (lambda: nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4)), (30, 12), 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_network_is_one_chain_and_computes_the_same(name: str) -> None:
    make, shape, operations = NETWORKS[name]
    torch.manual_seed(0)
    masked = Masked(make())
    assert_same(masked, random(*shape))
    assert masked.parts() == [operations, operations]
    assert masked.program.reason is None


@pytest.mark.parametrize("make", [resnet18, mobilenet_v2, densenet121])
def test_networks_of_torchvision_are_the_same(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    masked = Masked(make().eval(), density=0.5)
    inputs = random(3, 3, 64, 64)
    with torch.no_grad():
        found, expected = masked.module(inputs), masked.original(inputs)
    assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert masked.parts()


def test_what_a_chain_cannot_do_runs_between_chains() -> None:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.GELU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Softmax(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    ]
    masked = Masked(nn.Sequential(*layers))
    assert_same(masked, random(5, 3, 6, 6))
    assert masked.parts() == [1, 2, 1] * 2


def test_a_value_that_is_needed_in_two_places_ends_a_chain() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, inputs: Tensor) -> Tensor:
            first = self.first(inputs)
            return self.second(first.relu()) + first.sigmoid()

    torch.manual_seed(0)
    masked = Masked(Both())
    assert_same(masked, random(7, 6))
    assert masked.parts() == [1, 1] * 2


def test_an_operation_in_place_whose_input_is_used_later_is_left_to_pytorch() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            first = self.first(inputs)
            second = self.second(torch.relu_(first))
            output: Tensor = second + first
            return output

    torch.manual_seed(0)
    masked = Masked(InPlace())
    inputs = random(3, 2, 4, 4)
    with torch.no_grad():
        assert_close(masked.module(inputs), masked.original(inputs))
    assert masked.parts()


def test_other_arguments_types_and_modes_are_the_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    masked = Masked(nn.Sequential(nn.Linear(6, 4)))
    monkeypatch.setattr(Program, "_compiled_for", lambda *_: pytest.fail("was run by a chain"))
    inputs = random(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert masked.module(inputs).dtype == torch.bfloat16
    assert_close(masked.module(input=inputs), masked.original(inputs))
    mapped = torch.func.vmap(masked.module)(inputs[None])
    assert_close(mapped[0], masked.original(inputs))
    masked.module.double()
    assert masked.module(inputs.double()).dtype == torch.float64
    with pytest.raises(RuntimeError, match="dtype"):
        masked.module(inputs.int())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_run_the_original(how: Callable[[nn.Module], nn.Module]) -> None:
    masked = Masked(nn.Sequential(nn.Linear(6, 4)))
    masked.module(random(3, 6))
    twin = how(masked.module)
    with torch.no_grad():
        twin[0].weight.add_(1.0)  # type: ignore[index]  # a Sequential
    weight: Any = twin.state_dict()["0.weight"]
    assert_close(twin(random(3, 6)), random(3, 6) @ weight.T + twin.state_dict()["0.bias"])


def test_a_restored_module_is_what_it_was() -> None:
    masked = Masked(nn.Sequential(nn.Linear(6, 4)))
    inputs = random(3, 6)
    masked.module(inputs)
    masked.handle.remove()
    assert torch.equal(masked.module(inputs), masked.original(inputs))
    assert "forward" not in vars(masked.module)


def test_inference_mode_leaves_buffers_that_training_can_use() -> None:
    torch.manual_seed(0)
    masked = Masked(residual())
    inputs = random(4, 3, 16, 16)
    with torch.inference_mode():
        masked.module.eval()(inputs)
    masked.module.train()(inputs).sum().backward()
    masked.module.eval()(inputs).sum().backward()
    assert all(each.grad is not None for each in masked.module.parameters())


def test_a_forward_pass_that_cannot_be_traced_is_the_original_with_a_reason() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.layer(inputs)
            return output if output.sum() > 0 else -output

    masked = Masked(Branches())
    assert torch.equal(masked.module(random(3, 6)), masked.original(random(3, 6)))
    assert "can't be traced" in str(masked.program.reason)
    assert not masked.parts()
