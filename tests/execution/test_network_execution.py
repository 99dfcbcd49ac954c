"""A network that is executed sparsely computes the same, and stays what it is."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sparse_rows import needs_kernels
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_sparse import SparseNetwork
from lightning_sparse.execution import network_execution, with_weight
from lightning_sparse.execution.forward_replacement import replace_forward
from lightning_sparse.execution.network_execution import execute
from lightning_sparse.execution.programs import choices
from lightning_sparse.execution.programs.choices import Timing, timed
from lightning_sparse.execution.programs.compiled import Part
from lightning_sparse.models import LeNet5Caffe, LeNet300100
from lightning_sparse.models.vgg import VGG16
from lightning_sparse.models.wide_resnet import WideResNet

pytestmark = needs_kernels


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-300-100": (LeNet300100, (5, 1, 28, 28)),
    "LeNet-5": (LeNet5Caffe, (5, 1, 28, 28)),
    "VGG-16": (lambda: without_dropout(VGG16(width=0.1)), (18, 3, 32, 32)),
    "WRN-10-1": (lambda: WideResNet(10, 1, dropout=0.0), (5, 3, 8, 8)),
}


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4))


def sparse(model: nn.Module, density: float = 0.3) -> SparseNetwork:
    return SparseNetwork(model, density, seed=1)


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(inputs).square().sum().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def chains_that_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that names each part whose chain runs."""
    ran, original = list[str](), Part._chain

    def chain(part: Part, inputs: Any) -> Any:
        found = original(part, inputs)
        ran.extend([part.name] if found else [])
        return found

    monkeypatch.setattr(Part, "_chain", chain)
    return ran


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_of_active_weights_are_those_of_the_network(name: str) -> None:
    make, shape = NETWORKS[name]
    model = made(make)
    network, inputs = sparse(model), torch.randn(shape)
    original = copy.deepcopy(model)
    expected = gradients(original, inputs)
    with execute(network, kernels="always") as execution:
        found = gradients(model, inputs)
        assert not [line for line in execution.report() if "sparse" not in line]
    for each, gradient in found.items():
        mask = network.masks.get(each, torch.ones(()))
        scale = float(expected[each].abs().max())
        assert_close(gradient, expected[each] * mask, rtol=1e-3, atol=1e-3 * max(scale, 1))
        assert not gradient.mul(1 - mask.float()).any()
    for mine, theirs in zip(model.buffers(), original.buffers(), strict=True):
        assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_dense_execution_is_pytorchs_bit_for_bit_with_gradients_of_inactive_weights() -> None:
    model, inputs = made(perceptron), torch.randn(30, 12)
    network = sparse(model)
    expected = gradients(model, inputs)
    with execute(network, kernels="always") as execution:
        execution.is_dense = True
        found = gradients(model, inputs)
        assert execution.is_dense
        execution.is_dense = False
        without = gradients(model, inputs)
    inactive = ~network.masks["0.weight"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert found["0.weight"][inactive].any()
    assert not without["0.weight"][inactive].any()


def test_dense_execution_concerns_gradients_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = made(perceptron), torch.randn(30, 12)
    ran = chains_that_run(monkeypatch)
    with execute(sparse(model), kernels="always") as execution:
        execution.is_dense = True
        model(inputs)
        assert not ran
        with torch.no_grad():
            model(inputs)
        assert ran == ["#0"]


def test_new_masks_are_followed() -> None:
    model, inputs = made(perceptron), torch.randn(30, 12)
    network = sparse(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    network.attach(optimizer)
    with execute(network, kernels="always") as execution:
        execution.is_dense = True
        gradients(model, inputs)
        optimizer.step()
        before = network.masks["0.weight"]
        execution.is_dense = False
        model(inputs)
        network.rewire("sparse_momentum", 0.5)
        assert not torch.equal(network.masks["0.weight"], before)
        gradients(model, inputs)
        optimizer.step()  # so that grown weights are not zero
        found = model(inputs)
    assert_close(found, model(inputs))
    assert not network.count_outside()


def test_training_keeps_zeros_and_the_state_dict() -> None:
    model, other = made(perceptron), made(perceptron)
    networks, inputs = (sparse(model), sparse(other)), torch.randn(30, 12)
    for network in networks:
        optimizer = torch.optim.SGD(network.model.parameters(), lr=0.05, momentum=0.9)
        network.attach(optimizer)
        handle = execute(network, kernels="always") if network is networks[0] else None
        for _ in range(5):
            gradients(network.model, inputs)
            optimizer.step()
        assert handle is None or list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert not networks[0].count_outside()
    for name, weight in model.state_dict().items():
        assert_close(weight, other.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_undoing_leaves_the_modules_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = made(perceptron), torch.randn(30, 12)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    network = sparse(model)
    ran = chains_that_run(monkeypatch)
    execution = execute(network, kernels="always")
    model(inputs)
    execution.undo()
    execution.undo()
    assert ran == ["#0"]
    model(inputs)
    assert ran == ["#0"]
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    execute(network, kernels="always").undo()


def test_bad_arguments_are_refused_and_change_nothing() -> None:
    network = sparse(made(perceptron))
    with pytest.raises(TypeError, match=r"expected a SparseNetwork|Expected a SparseNetwork"):
        execute(network.model)  # type: ignore[arg-type]  # what a user may pass
    with pytest.raises(ValueError, match="'auto' or 'always'"):
        execute(network, kernels="never")  # type: ignore[arg-type]  # what a user may pass
    with execute(network), pytest.raises(ValueError, match="executed already"):
        execute(network)
    assert not any("forward" in vars(module) for module in network.model.modules())


def _timings(monkeypatch: pytest.MonkeyPatch, *, sparse: float) -> list[object]:
    calls: list[object] = []

    def timed(*arguments: object) -> Timing:
        calls.append(arguments)
        return Timing(1.0, sparse)

    monkeypatch.setattr(choices, "timed", timed)
    return calls


@pytest.mark.parametrize(("seconds", "is_sparse"), [(0.5, True), (2.0, False)])
def test_auto_takes_the_faster_and_times_once(monkeypatch: pytest.MonkeyPatch, seconds: float, is_sparse: bool) -> None:
    model, inputs = made(perceptron), torch.randn(30, 12)
    network, calls = sparse(model), _timings(monkeypatch, sparse=seconds)
    inactive = ~network.masks["0.weight"]
    with execute(network) as execution:
        found = [gradients(model, inputs)["0.weight"][inactive] for _ in range(2)]
        known, count = execution.choices, len(calls)
        report = execution.report()
    assert [not each.any() for each in found] == [is_sparse, is_sparse]
    assert set(known.values()) == {is_sparse}
    assert all(("sparse" in line) is is_sparse for line in report)
    with execute(network, choices=known):
        gradients(model, inputs)
    assert len(calls) == count


def test_timing_changes_nothing() -> None:
    model = made(lambda: nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU()))
    network, inputs = sparse(model), torch.randn(16, 3, 8, 8)
    original, state = copy.deepcopy(model), torch.get_rng_state()
    with execute(network):
        found = gradients(model, inputs)
    expected = gradients(original, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    for mine, theirs in zip(model.buffers(), original.buffers(), strict=True):
        assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    active = network.masks["0.weight"]
    assert_close(found["0.weight"][active], expected["0.weight"][active], rtol=1e-3, atol=1e-3)


def test_timing_takes_each_way_in_turns_forward_and_backward() -> None:
    weight, order = nn.Parameter(torch.ones(3)), list[str]()

    def way(name: str) -> Callable[[Tensor], Tensor]:
        def run(inputs: Tensor) -> Tensor:
            order.append(name)
            output = inputs * weight
            output.register_hook(lambda _: order.append(f"{name} backward"))
            return output

        return run

    timing = timed(way("dense"), way("sparse"), [torch.ones(3)], choices.Parts((weight,), ()))
    assert order[:4] == ["dense", "dense backward", "sparse", "sparse backward"]
    assert len(order) == 16
    assert weight.grad is None
    assert min(timing.dense, timing.sparse) > 0


def test_reports_say_why_a_layer_is_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.ModuleDict({"sound": nn.Conv1d(3, 8, 3), "precise": nn.Linear(8, 8).double(), "idle": nn.Linear(8, 8)})
    network = sparse(model)
    with execute(network, kernels="always") as execution:
        model["sound"](torch.randn(4, 3, 9))
        model["precise"](torch.randn(4, 8).double())
        report = execution.report()
    assert "there is no kernel for Conv1d" in report[0]
    assert ["not called" in line for line in report] == [False, True, True]
    monkeypatch.setattr(network_execution, "why_unavailable", lambda: "nobody compiled them")
    with execute(network) as execution:
        assert execution.report() == ["Sparse execution: all layers run dense, as nobody compiled them."]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_the_model_run_as_pytorch_has_it(
    monkeypatch: pytest.MonkeyPatch, how: Callable[[nn.Module], nn.Module]
) -> None:
    model, inputs = made(perceptron), torch.randn(30, 12)
    with execute(sparse(model), kernels="always"):
        expected = model(inputs)
        ran = chains_that_run(monkeypatch)
        assert_close(how(model)(inputs), expected)
        assert not ran


class Tokens(nn.Module):
    """Applies a layer to each token of a sequence, and refuses to be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.layer(inputs)
        return output if bool(output.detach().isfinite().all()) else -output


def test_a_linear_layer_takes_sequences_and_single_examples_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(Tokens)
    network = sparse(model)
    inputs = [torch.randn(shape) for shape in ((4, 5, 12), (2, 3, 4, 12), (6, 12), (12,))]
    expected = [model(each) for each in inputs]
    ran = chains_that_run(monkeypatch)
    with execute(network, kernels="always"):
        for each, output in zip(inputs, expected, strict=True):
            assert_close(model(each), output, rtol=1e-4, atol=1e-5)
    assert ran == ["layer"] * 3


def test_a_hook_on_a_layer_sees_its_calls_and_its_layer_is_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, seen = made(perceptron), torch.randn(30, 12), list[Tensor]()
    expected = nn.Sequential(*model.children())[0](inputs)  # type: ignore[arg-type]  # layers of a Sequential
    handle = model.get_submodule("0").register_forward_hook(lambda module, given, output: seen.append(output.detach()))
    ran = chains_that_run(monkeypatch)
    with execute(sparse(model, 1.0), kernels="always"):
        model(inputs)
        assert ran == ["0", "#0"]
        handle.remove()
        model(inputs)
        assert ran == ["0", "#0", "#0"]
    assert len(seen) == 1
    assert_close(seen[0], expected)


def test_a_layer_whose_forward_is_replaced_already_is_left_alone() -> None:
    model, inputs = made(perceptron), torch.randn(30, 12)
    handle = replace_forward(model.get_submodule("0"), with_weight(lambda weight: weight * 2))
    network = sparse(model)
    expected = model(inputs)
    with execute(network, kernels="always") as execution:
        assert_close(model(inputs), expected)
        assert [line.split(":")[0] for line in execution.report()] == ["the model, part 0, 1 modules"]
    handle.remove()
