"""Forward passes that a chain could get wrong, crash on, or leave something out of."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sparse_rows import needs_kernels
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from lightning_sparse import SparseNetwork
from lightning_sparse.execution.network_execution import execute
from lightning_sparse.execution.programs import UntraceableError, trace

pytestmark = needs_kernels

# Earlier versions of PyTorch don't tell whether something else keeps the tensors of a backward pass.
knows_who_keeps = pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"), reason="PyTorch is too old to tell"
)
MAPS = (20, 3, 8, 8)


class Layers(nn.Module):
    """Layers for maps, for forward passes of the tests' own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.narrow, self.head = nn.Conv2d(3, 1, 1), nn.Linear(6, 6)
        self.bn, self.same, self.relu = nn.BatchNorm2d(3), nn.Identity(), nn.ReLU(inplace=True)


def made(forward: Callable[[Any, Tensor], Tensor]) -> Any:
    return type("Made", (Layers,), {"forward": forward})()


def _overwrites_an_alias(s: Any, x: Tensor) -> Tensor:
    h = s.bn(x)
    k = s.same(h)
    h = s.relu(h)
    result: Tensor = s.a(h) + s.narrow(k)
    return result


def _adds_in_place_to_an_alias(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    k = h
    h += x.sum(1, keepdim=True)
    result: Tensor = s.b(h) + k
    return result


def _adds_maps_in_place_to_an_alias(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    k = h
    h += s.a(x)
    result: Tensor = s.b(h) + k
    return result


def _has_dead_code(s: Any, x: Tensor) -> Tensor:
    h: Tensor = adaptive_avg_pool2d(s.a(x), 1).flatten(1)
    s.head(h)
    return h


def _stops_gradients(s: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        target = s.a(x + 1)
    return (s.a(x) - target).square()


def _asks_for_gradients(s: Any, x: Tensor) -> Tensor:
    result: Tensor = s.a(x) if torch.is_grad_enabled() else s.a(x) * 2
    return result


CASES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "maps that are broadcast": lambda s, x: s.a(x) + s.narrow(x),
    "in place on an alias": _overwrites_an_alias,
    "a sum in place on an alias": _adds_in_place_to_an_alias,
    "a sum of maps in place on an alias": _adds_maps_in_place_to_an_alias,
    "dead code": _has_dead_code,
    "a stopped gradient": _stops_gradients,
    "asking for gradients": _asks_for_gradients,
}


def gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    output = model(inputs)
    output.sum().backward()
    with torch.no_grad():
        other = model(inputs)
    return {"output": output.detach(), "without": other} | {name: each.grad for name, each in model.named_parameters()}


@pytest.mark.parametrize("name", CASES)
def test_a_forward_pass_is_what_pytorch_makes_of_it(name: str) -> None:
    model, inputs = made(CASES[name]), torch.randn(MAPS)
    network = SparseNetwork(model, 1.0)
    expected = gradients(copy.deepcopy(model), inputs)
    with execute(network, kernels="always"):
        found = gradients(model, inputs)
    assert [each for each, value in found.items() if value is None] == [
        each for each, value in expected.items() if value is None
    ]
    for each, value in found.items():
        assert_close(value, expected[each], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU()), torch.randn(4, 6, 9, 9)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5)), torch.randn(MAPS)),
        (nn.Sequential(nn.Linear(16, 8), nn.ReLU()), torch.randn(4, 12)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(145, 4)), torch.randn(MAPS)),
        (nn.Sequential(nn.Conv2d(3, 4, 9), nn.ReLU()), torch.randn(MAPS)),
    ],
)
def test_inputs_of_the_wrong_size_are_pytorchs_error(model: nn.Module, inputs: Tensor) -> None:
    with execute(SparseNetwork(model, 0.5), kernels="always"), pytest.raises((RuntimeError, ValueError)):
        model(inputs)


@pytest.mark.parametrize("first", [0, 5])
def test_an_empty_batch_is_pytorchs_and_later_ones_are_not(first: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    inputs = torch.randn(MAPS)
    with execute(SparseNetwork(model, 0.5), kernels="always") as execution:
        model.eval()
        model(inputs[:first])
        assert model(inputs[:0]).shape == (0, 2)
        assert model(inputs).shape == (20, 2)
        assert any("sparse" in line for line in execution.report())


@pytest.mark.parametrize("kernels", ["auto", "always"])
def test_statistics_may_change_between_a_forward_pass_and_its_backward_pass(kernels: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
    inputs = torch.randn(MAPS)
    with execute(SparseNetwork(model, 0.5), kernels=kernels):
        output = model(inputs).sum() + model(inputs[..., :6, :6]).sum()
        model.eval()
        model(inputs)
        output.backward()


@knows_who_keeps
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    network, inputs = SparseNetwork(model, 1.0), torch.randn(MAPS, requires_grad=True)
    model(inputs).sum().backward()
    expected = {name: each.grad for name, each in model.named_parameters()}
    model.zero_grad()
    with execute(network):
        checkpoint(model, inputs, use_reentrant=reentrant).sum().backward()
    for name, each in model.named_parameters():
        assert_close(each.grad, expected[name], rtol=1e-3, atol=1e-3)


@knows_who_keeps
def test_tensors_that_are_kept_elsewhere_are_pytorchs() -> None:
    model, inputs = nn.Sequential(nn.Linear(12, 8), nn.ReLU()), torch.randn(30, 12)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda each: each.detach().numpy(), torch.from_numpy)
    with execute(SparseNetwork(model, 0.5), kernels="always"), hooks:
        model(inputs).sum().backward()


def _options(model: nn.Sequential) -> dict[str, Callable[[], Any]]:
    conv, dropout = model[0], model[1]
    return {
        "dropout in evaluation": lambda: dropout.train(),
        "another stride": lambda: setattr(conv, "stride", (2, 2)),
        "another padding": lambda: setattr(conv, "padding", (1, 1)),
    }


@pytest.mark.parametrize("change", ["dropout in evaluation", "another stride", "another padding"])
def test_options_and_modes_of_layers_are_followed(change: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Dropout(0.5), nn.ReLU()).eval()
    inputs = torch.randn(MAPS)
    with execute(SparseNetwork(model, 0.5), kernels="always"):
        model(inputs)
        _options(model)[change]()
        torch.manual_seed(1)
        found = model(inputs)
    torch.manual_seed(1)
    assert_close(found, model(inputs), rtol=1e-4, atol=1e-5)


def test_layers_that_share_a_weight_may_differ_in_their_geometry() -> None:
    model = made(lambda s, x: s.b(s.a(x)) + s.c(s.a(x)))
    model.c = nn.Conv2d(6, 6, 3, padding=2, dilation=2)
    model.c.weight = model.b.weight
    inputs = torch.randn(MAPS)
    network = SparseNetwork(model, 0.5)
    expected = model(inputs)
    with execute(network, kernels="always"):
        assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)


def test_memory_does_not_grow_with_the_number_of_sizes() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU())
    with execute(SparseNetwork(model, 0.5), kernels="always") as execution:
        for rows in range(1, 40):
            model(torch.randn(rows, 12)).sum().backward()
        chains = [chain for program in execution._programs.values() for part in program.parts for chain in part.chains]
    assert chains
    assert max(len(chain._buffers) for chain in chains) < 8


def test_the_number_of_chains_and_plans_is_limited() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with execute(SparseNetwork(model, 0.5), kernels="always") as execution:
        for size in range(4, 30):
            model(torch.randn(2, 3, size, size))
        parts = [part for program in execution._programs.values() for part in program.parts]
        assert [len(part.chains) for part in parts] == [8]
        assert all(len(weight._plans) <= 8 for weight in execution._weights.values())


def test_other_threads_make_modules_while_a_graph_is_made() -> None:
    made_there: list[nn.Module] = []

    class Waits(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            thread = threading.Thread(target=lambda: made_there.append(nn.ReLU()))
            thread.start()
            thread.join()
            return inputs

    trace(Waits(), 1, lambda module: False)
    assert len(made_there) == 1


def test_modes_that_a_graph_would_leave_out_are_refused() -> None:
    class Stops(nn.Module):
        @torch.no_grad()
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs + 1

    with pytest.raises(UntraceableError, match="enters no_grad"):
        trace(Stops(), 1, lambda module: False)
    with torch.no_grad():
        assert not torch.is_grad_enabled()


def test_a_failed_execution_leaves_nothing_replaced() -> None:
    encoder = nn.Sequential(nn.Linear(12, 8))
    model = nn.Sequential(encoder, nn.Linear(8, 2))
    first = execute(SparseNetwork(encoder, 1.0))
    with pytest.raises(ValueError, match="executed already"):
        execute(SparseNetwork(model, 0.5))
    first.undo()
    assert not any("forward" in vars(module) for module in model.modules())
