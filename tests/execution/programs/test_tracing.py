"""A traced forward pass is the module's own, or is refused with a reason, and a graph knows when it is outdated."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from lightning_sparse.execution import replace_forward
from lightning_sparse.execution.programs import Traced, UntraceableError, trace
from lightning_sparse.execution.programs.program import Program, no_weight


class Inner(nn.Module):
    """Decides by attributes of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.doubles, self.scale, self.shape, self.act = False, 0.5, [2, 2], torch.relu

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.act(self.layer(inputs)) * self.scale
        output = output * 2 if self.doubles else output
        return output.view(-1, *self.shape).flatten(1)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = Inner(), nn.Linear(4, 3)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        output: Tensor = self.last(self.inner(inputs))
        return output if mask is None else output * mask


def _call(module: nn.Module, original: Callable[..., Tensor], inputs: Tensor) -> Tensor:
    return original(module, inputs)


def own(module: nn.Module) -> bool:
    """Look into modules that this file defines."""
    return type(module).__module__ == __name__


def traced(module: nn.Module, arguments: int = 1) -> Traced:
    return trace(module, arguments, own)


def test_a_graph_computes_what_the_module_does_with_the_same_parameters() -> None:
    module, inputs = Outer(), torch.randn(3, 4)
    found = traced(module)
    assert torch.equal(found.graph(inputs), module(inputs))
    assert {node.target for node in found.graph.graph.nodes if node.op == "call_module"} == {"inner.layer", "last"}
    with torch.no_grad():
        module.inner.layer.weight.mul_(2)
    assert torch.equal(found.graph(inputs), module(inputs))
    with_mask = traced(module, arguments=2)
    assert torch.equal(with_mask.graph(inputs, torch.zeros(3)), torch.zeros(3, 3))


def _set(name: str, value: Any) -> Callable[[Outer], None]:
    return lambda module: setattr(module.inner, name, value)


CHANGES: dict[str, Callable[[Outer], Any]] = {
    "a flag": _set("doubles", True),
    "a number": _set("scale", 0.25),
    "a number of another type": _set("scale", 1),
    "a list": lambda module: module.inner.shape.append(1),
    "a function": _set("act", torch.tanh),
    "the mode": lambda module: module.eval(),
    "the mode of a part": lambda module: module.inner.eval(),
    "a layer": _set("layer", nn.Linear(4, 4)),
    "a hook on a layer": lambda module: module.last.register_forward_hook(lambda *_: None),
    "a hook on a part": lambda module: module.inner.register_forward_pre_hook(lambda *_: None),
    "a hook on gradients": lambda module: module.last.register_full_backward_hook(lambda *_: None),
    "another forward": lambda module: replace_forward(module.last, _call),
    "another weight": lambda module: setattr(module.last, "weight", nn.Parameter(torch.ones(3, 4))),
    "another precision": lambda module: module.last.double(),
    "another layer": lambda module: setattr(module, "last", nn.Linear(4, 3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_is_outdated_once_something_that_it_depends_on_changes(change: str) -> None:
    module = Outer()
    found = traced(module)
    assert found.holds()
    CHANGES[change](module)
    assert not found.holds()
    assert traced(module).holds()


def test_a_graph_holds_while_nothing_that_it_depends_on_changes() -> None:
    module = Outer()
    found = traced(module)
    module.inner.unused = 7  # type: ignore[assignment]  # an attribute that nobody reads
    with torch.no_grad():
        module.last.weight.zero_()
    module.requires_grad_(False)
    assert found.holds()


def _draws(draw: Callable[[], Any]) -> type[nn.Module]:
    class Draws(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            draw()
            return inputs

    return Draws


class Branches(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs if inputs.sum() > 0 else -inputs


class Makes(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.ones(4)


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.options = {"scale": 2.0}

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.options["scale"]


class Remembers(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        self.last = inputs
        return inputs


class Carefully(Remembers):
    def forward(self, inputs: Tensor) -> Tensor:
        with suppress(Exception):
            super().forward(inputs)
        return inputs


class AnyNumber(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


@pytest.mark.parametrize(
    ("module", "arguments", "reason"),
    [
        (_draws(random.random)(), 1, "random numbers"),
        (_draws(lambda: np.random.rand())(), 1, "random numbers"),  # noqa: NPY002  # what users may call
        (_draws(lambda: torch.rand(1))(), 1, "random numbers"),
        (Branches(), 1, "Branches can't be traced"),
        (Makes(), 1, "makes tensors"),
        (Configured(), 1, "reads options, a dict"),
        (Remembers(), 1, "Remembers sets last"),
        (Carefully(), 1, "Carefully sets last"),
        (AnyNumber(), 1, "any number of arguments"),
        (Outer(), 0, "other arguments than 0 tensors"),
        (Outer(), 3, "other arguments than 3 tensors"),
    ],
)
def test_what_the_graph_could_not_stand_for_is_refused(module: nn.Module, arguments: int, reason: str) -> None:
    states = random.getstate(), torch.get_rng_state()
    with pytest.raises(UntraceableError, match=reason):
        traced(module, arguments)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert "__getattribute__" not in vars(nn.Module)
    assert not isinstance(getattr(module, "last", None), fx.Proxy)
    module.seen = 1  # type: ignore[assignment]  # which modules allow again


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        calls = cast(Tensor, self.calls)
        calls.add_(1)
        return inputs * calls


def test_what_is_done_to_a_buffer_is_done_in_every_call_and_not_while_the_graph_is_made() -> None:
    module = Counts()
    graph = traced(module).graph
    assert module.calls == 0
    assert [graph(torch.ones(())).item() for _ in range(3)] == [1, 2, 3]
    assert module.calls == 3


def test_modules_with_hooks_or_another_forward_are_called() -> None:
    module = Outer()

    def calls() -> set[str]:
        return {str(node.target) for node in traced(module).graph.graph.nodes if node.op == "call_module"}

    assert calls() == {"inner.layer", "last"}
    with replace_forward(module.inner, _call):
        assert calls() == {"inner", "last"}
    with replace_forward(module.inner, Program(no_weight, own)):
        assert calls() == {"inner.layer", "last"}
    handle = module.inner.register_forward_hook(lambda *_: None)
    assert calls() == {"inner", "last"}
    handle.remove()
    assert calls() == {"inner.layer", "last"}
