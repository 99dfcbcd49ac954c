"""A chain of linear layers computes what PyTorch does, and shares its memory with nobody who still needs it."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from sparse_rows import needs_kernels, random
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_sparse.execution.chains import Chain, EnterFeatures, LeaveFeatures, MaskedWeight, Multiply, Node

pytestmark = needs_kernels

SIZES = [20, 33, 12, 5]


class Network:
    """Linear layers with ReLUs between them, masked, as a module and as a chain of the same parameters."""

    def __init__(self, *, bias: bool = True) -> None:
        torch.manual_seed(0)
        self.masks: list[Tensor] = []
        self.version = 0
        self.layers = [nn.Linear(*sizes, bias=bias) for sizes in pairwise(SIZES)]
        self.module = nn.Sequential()
        for index, layer in enumerate(self.layers):
            self.masks.append(torch.rand(layer.weight.shape) < 0.3)
            self.module.extend([layer, nn.ReLU()] if index < 2 else [layer])
        self.mask()
        steps = [Multiply(self.weight(index), self.bias(index), relu=index < 2) for index in range(3)]
        self.chain = Chain.of(EnterFeatures(), *steps, LeaveFeatures())

    def bias(self, index: int) -> nn.Parameter | None:
        bias: nn.Parameter | None = self.layers[index].bias
        return bias

    def weight(self, index: int) -> MaskedWeight[Any]:
        return MaskedWeight(self.layers[index].weight, lambda: self.masks[index], lambda: self.version)

    @torch.no_grad()
    def mask(self) -> None:
        for layer, mask in zip(self.layers, self.masks, strict=True):
            layer.weight.mul_(mask)

    def gradients(self, run: Any, inputs: Tensor, errors: Tensor) -> list[Tensor]:
        """Return the output and all gradients; of weights, those of active ones."""
        self.module.zero_grad()
        given = inputs.clone().requires_grad_()
        output = run(given)
        output.backward(errors)
        found = [output.detach(), given.grad]
        for layer, mask in zip(self.layers, self.masks, strict=True):
            assert layer.weight.grad is not None
            found += [layer.weight.grad * mask]
            found += [] if layer.bias is None else [layer.bias.grad]
        assert all(each is not None for each in found)
        return found  # type: ignore[return-value]  # which was just asserted


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 15, 16, 50, 300])
def test_outputs_and_gradients_are_those_of_pytorch(batch: int, bias: bool) -> None:
    network = Network(bias=bias)
    inputs, errors = random(batch, SIZES[0]), random(batch, SIZES[-1], seed=2)
    expected = network.gradients(network.module, inputs, errors)
    for _ in range(3):  # with fresh buffers and with used ones
        for one, other in zip(network.gradients(network.chain, inputs, errors), expected, strict=True):
            assert_close(one, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert_close(network.chain(inputs), network.module(inputs), rtol=1e-4, atol=1e-5)


def test_gradients_of_inactive_weights_are_zero() -> None:
    network = Network()
    network.chain(random(8, SIZES[0])).sum().backward()
    for layer, mask in zip(network.layers, network.masks, strict=True):
        assert layer.weight.grad is not None
        assert not layer.weight.grad[~mask].any()
        assert layer.weight.grad[mask].any()


def test_new_masks_count_once_the_version_changes() -> None:
    network, inputs = Network(), random(8, SIZES[0])
    network.chain(inputs)
    network.masks = [mask.flip(0) for mask in network.masks]
    for layer in network.layers:
        nn.init.normal_(layer.weight)
    network.mask()
    assert not torch.allclose(network.chain(inputs), network.module(inputs), atol=1e-3)
    network.version += 1
    assert_close(network.chain(inputs), network.module(inputs), rtol=1e-4, atol=1e-5)


def test_only_what_is_wanted_is_computed() -> None:
    network = Network()
    network.layers[0].requires_grad_(False)
    network.layers[1].weight.requires_grad_(False)
    network.chain(random(8, SIZES[0])).sum().backward()
    assert [each.grad is None for each in network.module.parameters()] == [True, True, True, False, False, False]
    network.module.requires_grad_(False)
    assert not network.chain(random(8, SIZES[0])).requires_grad
    assert network.chain(random(8, SIZES[0]).requires_grad_()).requires_grad


def test_passes_that_overlap_have_buffers_of_their_own() -> None:
    network = Network()
    batches = [random(8, SIZES[0], seed=seed) for seed in range(3)]
    errors = random(8, SIZES[-1], seed=7)
    expected = [network.gradients(network.chain, inputs, errors)[2:] for inputs in batches]
    outputs = [network.chain(inputs) for inputs in batches]
    for index in (1, 0, 2):
        network.module.zero_grad()
        outputs[index].backward(errors)
        for one, other in zip((each.grad for each in network.module.parameters()), expected[index], strict=True):
            assert torch.equal(one, other)


def test_a_retained_graph_can_be_used_again_and_a_freed_one_is_pytorchs_error() -> None:
    network, errors = Network(), random(8, SIZES[-1], seed=7)
    output = network.chain(random(8, SIZES[0]))
    output.backward(errors, retain_graph=True)
    once = [each.grad.clone() for each in network.module.parameters() if each.grad is not None]
    network.chain(random(8, SIZES[0], seed=9)).sum().backward()  # takes other buffers
    network.module.zero_grad()
    output.backward(errors)
    twice = [each.grad for each in network.module.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(once, twice, strict=True) if other is not None)
    assert len(once) == 6
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        output.backward(errors)


def test_buffers_are_used_again_after_the_backward_pass_and_after_one_that_never_comes() -> None:
    network, inputs = Network(), random(8, SIZES[0])
    free = []
    for index in range(6):
        output = network.chain(inputs)
        if index % 2:
            output.sum().backward()
        else:
            del output
        free.append(len(network.chain._buffers))
    # The output of the last pass is still there, and holds none of the chain's memory.
    assert free[1:] == [free[1]] * 5
    with torch.no_grad():
        network.chain(inputs)
    assert len(network.chain._buffers) == free[-1]


def test_second_derivatives_are_refused() -> None:
    network = Network()
    inputs = random(8, SIZES[0]).requires_grad_()
    (gradient,) = torch.autograd.grad(network.chain(inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_value_that_is_used_twice_gets_the_sum_of_its_errors() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 6, bias=False)
    weight: MaskedWeight[Any] = MaskedWeight(layer.weight, lambda: torch.ones(6, 6, dtype=torch.bool))

    class Add:
        parameters = ()

        def forward(self, inputs: Any, batch: Any) -> Any:
            output = batch.lease.take(*inputs[0].shape)
            return torch.add(*inputs, out=output), None

        def backward(self, errors: Tensor, *rest: Any) -> Any:
            return [errors, errors.clone()], []

    nodes = [Node(EnterFeatures(), (0,)), Node(Multiply(weight, None), (1,)), Node(Add(), (1, 2))]
    chain = Chain([*nodes, Node(LeaveFeatures(), (3,))])
    inputs = random(8, 6).requires_grad_()
    chain(inputs).square().sum().backward()
    found = [inputs.grad, layer.weight.grad]
    inputs.grad = layer.weight.grad = None
    (inputs + layer(inputs)).square().sum().backward()
    for one, other in zip(found, (inputs.grad, layer.weight.grad), strict=True):
        assert one is not None
        assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_copy_of_a_chain_has_buffers_of_its_own() -> None:
    network = Network()
    network.chain(random(8, SIZES[0]))
    assert len(network.chain._buffers) > 0
    assert len(copy.copy(network.chain._buffers)) == 0
