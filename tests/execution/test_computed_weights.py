"""A forward sees computed tensors in the place of parameters; nobody else does."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
from gates import Gate, gate_of, gated
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from lightning_sparse.execution import ComputedWeights, replace_forward, replaced_forward, with_weight
from lightning_sparse.validation.errors import InvalidStateError, InvalidTypeError, InvalidValueError

INPUTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


class Parent(nn.Module):
    """Computes with the weight of a layer that it doesn't call, as torchvision's Swin attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"qkv": nn.Linear(4, 3)})

    def forward(self, inputs: Tensor) -> Any:
        return nn.functional.linear(inputs, self.inner["qkv"].weight)  # type: ignore[arg-type]  # of a layer


def attention() -> nn.Module:
    return nn.MultiheadAttention(4, 2, batch_first=True)


# A module, the name of one of its parameters, and the arguments of a call.
Case = tuple[Callable[[], nn.Module], str, tuple[Any, ...]]
CASES: dict[str, Case] = {
    "linear": (partial(nn.Linear, 4, 3), "weight", (INPUTS,)),
    "bias": (partial(nn.Linear, 4, 3), "bias", (INPUTS,)),
    "convolution": (partial(nn.Conv2d, 4, 3, 3), "weight", (IMAGES,)),
    "transposed convolution": (partial(nn.ConvTranspose2d, 4, 3, 3), "weight", (IMAGES,)),
    "embedding": (partial(nn.Embedding, 9, 3), "weight", (torch.arange(6).view(2, 3),)),
    "attention": (attention, "in_proj_weight", (SEQUENCES,) * 3),
    "output of attention": (attention, "out_proj.weight", (SEQUENCES,) * 3),
    "LSTM": (partial(nn.LSTM, 4, 3, 2, batch_first=True), "weight_ih_l0", (SEQUENCES,)),
    "GRU": (partial(nn.GRU, 4, 3, bidirectional=True), "weight_hh_l0_reverse", (SEQUENCES,)),
    "LSTM cell": (partial(nn.LSTMCell, 4, 3), "weight_ih", (INPUTS,)),
    "layer that isn't called": (Parent, "inner.qkv.weight", (INPUTS,)),
    "parametrized": (
        lambda: parametrizations.orthogonal(nn.Linear(4, 3)),
        "parametrizations.weight.original",
        (INPUTS,),
    ),
}


def tensors_of(outputs: Any) -> list[Tensor]:
    """Return the tensors in nested tuples."""
    return [outputs] if isinstance(outputs, Tensor) else [each for part in outputs for each in tensors_of(part)]


def called(module: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Tensor]:
    return [each.detach() for each in tensors_of(module(*arguments))]


def backward(module: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.stack([each.square().sum() for each in tensors_of(module(*arguments))]).sum().backward()  # type: ignore[no-untyped-call]  # PyTorch's


def restored_copy(module: nn.Module) -> nn.Module:
    copied = copy.deepcopy(module)
    handle = replaced_forward(copied)
    assert handle is not None
    handle.remove()
    return copied


def equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(map(torch.equal, some, others)) and len(some) == len(others)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_a_module_with_the_computed_weights(case: str, training: bool) -> None:
    make, name, arguments = CASES[case]
    module = make().train(training)
    before = called(module, arguments)
    gate, handle = gated(module, name)
    expected = restored_copy(module)
    with torch.no_grad():
        expected.get_parameter(name).copy_(gate(module.get_parameter(name)))
        # The shortcuts that attention takes without gradients, too, which round in another way.
        torch.testing.assert_close(called(module, arguments), called(expected, arguments))
    assert equal(called(module, arguments), called(expected, arguments))
    assert not equal(called(module, arguments), before)
    handle.remove()
    assert equal(called(module, arguments), before)


@pytest.mark.parametrize("case", CASES)
def test_gradients_reach_the_parameter_and_what_the_function_used(case: str) -> None:
    make, name, arguments = CASES[case]
    module = make()
    gate, handle = gated(module, name)
    parameter = module.get_parameter(name)
    whole = restored_copy(module)
    weight = whole.get_parameter(name)
    with torch.no_grad():
        weight.copy_(gate(parameter))
    backward(module, arguments)
    backward(whole, arguments)
    assert weight.grad is not None
    torch.testing.assert_close(parameter.grad, weight.grad * gate.values)
    torch.testing.assert_close(gate.values.grad, weight.grad * parameter)
    gate.values.grad = None
    handle.remove()
    backward(module, arguments)
    assert gate.values.grad is None


@pytest.mark.parametrize("case", CASES)
def test_a_module_is_exactly_as_before_in_and_after_a_call(case: str) -> None:
    make, name, arguments = CASES[case]
    module = make()
    module(*arguments)
    seen = []

    def compute(weight: Tensor) -> Tensor:
        return weight * 2

    replace_forward(module, with_weight(compute, name))
    for inner in module.modules():
        inner.register_forward_hook(lambda *_: seen.append(named()))

    def named() -> dict[str, int]:
        return {each: id(parameter) for each, parameter in module.named_parameters()}

    expected = named()
    state = {each: value.data_ptr() for each, value in module.state_dict().items()}
    module(*arguments)
    assert seen == [expected] * len(seen)
    assert seen
    assert {each: value.data_ptr() for each, value in module.state_dict().items()} == state


@pytest.mark.parametrize("case", [case for case in CASES if case != "parametrized"])  # which can't be pickled
def test_copies_of_every_module_work(case: str) -> None:
    make, name, arguments = CASES[case]
    module = make().eval()
    gated(module, name)
    expected = called(module, arguments)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        gate = gate_of(copied, replaced_forward(copied), name)
        assert equal(called(copied, arguments), expected)
        with torch.no_grad():
            gate.values.mul_(3)
        assert not equal(called(copied, arguments), expected)
        assert equal(called(module, arguments), expected)


SEVERAL: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], tuple[Any, ...]]] = {
    "LSTM": (partial(nn.LSTM, 4, 3, batch_first=True), ("weight_ih_l0", "weight_hh_l0"), (SEQUENCES,)),
    "attention": (attention, ("in_proj_weight", "out_proj.weight", "out_proj.bias"), (SEQUENCES,) * 3),
    "layers": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), ("0.weight", "0.bias", "1.bias"), (INPUTS,)),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_several_parameters_of_one_module_are_computed(case: str) -> None:
    make, names, arguments = SEVERAL[case]
    module = make()
    before = called(module, arguments)
    with replace_forward(module, ComputedWeights(dict.fromkeys(names, torch.sin))):
        outputs = called(module, arguments)
    assert equal(called(module, arguments), before)
    with torch.no_grad():
        for name in names:
            module.get_parameter(name).sin_()
    assert equal(called(module, arguments), outputs)


def test_replacements_may_call_each_other() -> None:
    layer = nn.Linear(4, 3)
    first, second = with_weight(lambda weight: weight * 2), with_weight(lambda bias: bias * 0, "bias")

    def run(module: nn.Module, original: Callable[..., Any], *args: Any) -> Any:
        return first(module, partial(second_of, original), *args)

    def second_of(original: Callable[..., Any], module: nn.Module, *args: Any) -> Any:
        return second(module, original, *args)

    replace_forward(layer, run)
    assert torch.equal(layer(INPUTS), nn.functional.linear(INPUTS, layer.weight * 2, layer.bias * 0))


def test_a_tied_weight_in_another_module_is_left_alone() -> None:
    embedding, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
    head.weight = embedding.weight
    net = nn.Sequential(embedding, head)
    tokens = torch.arange(9)
    gate, _ = gated(head)
    assert torch.equal(net(tokens), embedding(tokens) @ (embedding.weight * gate.values).T)
    assert torch.equal(embedding(tokens), embedding.weight)
    assert [name for name, _ in net.named_parameters()] == ["0.weight"]
    net(tokens).sum().backward()
    assert embedding.weight.grad is not None


class Recursive(nn.Linear):
    """Calls itself once, and remembers its calls."""

    calls = 0

    def forward(self, inputs: Tensor, again: bool = True) -> Tensor:
        self.calls += 1
        self.last = inputs
        outputs = super().forward(inputs)
        return self(outputs, again=False) if again else outputs


def test_a_module_that_calls_itself_computes_from_its_parameter_each_time() -> None:
    layer = Recursive(4, 4)
    linear = nn.functional.linear
    replace_forward(layer, with_weight(lambda weight: weight * 2))
    expected = linear(linear(INPUTS, layer.weight * 2, layer.bias), layer.weight * 2, layer.bias)
    assert torch.equal(layer(INPUTS), expected)


def test_attributes_that_the_forward_sets_are_those_of_the_module() -> None:
    layer = Recursive(4, 4)
    replace_forward(layer, with_weight(torch.sin))
    layer(INPUTS, again=False)
    layer(INPUTS, again=False)
    assert layer.calls == 2
    assert layer.last is INPUTS
    norm = nn.BatchNorm1d(4)
    replace_forward(norm, with_weight(torch.sin))
    norm(INPUTS)
    assert norm.num_batches_tracked == 1
    assert norm.running_mean is not None
    assert norm.running_mean.abs().sum() > 0


class Failing(nn.Linear):
    fails = True

    def forward(self, input: Tensor) -> Tensor:
        if self.fails:
            self.failed = True
            raise RuntimeError("on purpose")
        return super().forward(input)


def test_an_exception_in_the_forward_or_the_function_leaves_the_parameter_in_place() -> None:
    layer = Failing(4, 3)
    parameter = layer.weight
    gate, handle = gated(layer)
    with pytest.raises(RuntimeError, match="on purpose"):
        layer(INPUTS)
    assert layer.failed
    assert layer.weight is parameter
    layer.fails = False
    assert torch.equal(layer(INPUTS), nn.functional.linear(INPUTS, gate(parameter), layer.bias))
    handle.remove()
    replace_forward(layer, with_weight(lambda weight: 1 / 0))  # type: ignore[arg-type, return-value]  # fails
    with pytest.raises(ZeroDivisionError):
        layer(INPUTS)
    assert layer.weight is parameter


@pytest.mark.parametrize(
    ("compute", "name", "message"),
    [
        (
            lambda weight: weight.T,
            "weight",
            r"\(3, 4\) for 'weight' of Linear; got one of shape \(4, 3\) from",
        ),
        (lambda weight: 1.0, "weight", r"\(3, 4\) for 'weight' of Linear; got 1\.0 from"),
        (torch.sin, "wieght", "a parameter 'wieght' of Linear; got one with weight, bias"),
        (torch.sin, "out_proj.weight", "a parameter 'out_proj.weight' of Linear; got one with weight, bias"),
        (torch.sin, "", "a parameter '' of Linear"),
    ],
)
def test_a_wrong_shape_or_name_is_an_error_with_the_cure(compute: Any, name: str, message: str) -> None:
    layer = nn.Linear(4, 3)
    replace_forward(layer, with_weight(compute, name))
    with pytest.raises(InvalidValueError, match=f"{message}.*Cure: "):
        layer(INPUTS)
    assert isinstance(layer.weight, nn.Parameter)


def test_a_missing_bias_and_what_is_no_function_are_errors() -> None:
    layer = nn.Linear(4, 3, bias=False)
    replace_forward(layer, with_weight(torch.sin, "bias"))
    with pytest.raises(InvalidValueError, match="a parameter 'bias' of Linear; got one with weight"):
        layer(INPUTS)
    with pytest.raises(InvalidTypeError, match="a function of the parameter 'weight'; got Tensor"):
        with_weight(INPUTS)  # type: ignore[arg-type]  # on purpose


def test_a_forward_of_the_instance_runs_with_the_weights_if_it_is_a_method_and_is_an_error_otherwise() -> None:
    def forward(self: nn.Linear, inputs: Tensor) -> Tensor:
        return inputs @ self.weight.T

    layer = nn.Linear(4, 3)
    layer.forward = MethodType(forward, layer)  # type: ignore[method-assign]  # as some packages do
    with replace_forward(layer, with_weight(lambda weight: weight * 2)):
        assert torch.equal(layer(INPUTS), INPUTS @ (2 * layer.weight).T)
    layer.forward = lambda input: input @ layer.weight.T  # type: ignore[method-assign]  # bound to the layer for good
    before = layer(INPUTS)
    handle = replace_forward(layer, with_weight(torch.sin))
    with pytest.raises(InvalidStateError, match=r"got one whose forward is <lambda>\. Cure: replace the forward first"):
        layer(INPUTS)
    handle.remove()
    assert torch.equal(layer(INPUTS), before)


class Saving(nn.Module):
    """Saves memory inside of its forward, so that its weight is read again in the backward pass."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
        self.use_reentrant: bool | None = use_reentrant

    def forward(self, inputs: Tensor) -> Any:
        if self.use_reentrant is None:
            return self.inside(inputs)
        return checkpoint(self.inside, inputs, use_reentrant=self.use_reentrant)

    def inside(self, inputs: Tensor) -> Tensor:
        return (inputs @ self.weight).sin()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_what_is_recomputed_in_the_backward_pass_has_the_computed_weights(use_reentrant: bool) -> None:
    gradients = []
    for saves in (use_reentrant, None):
        module = Saving(use_reentrant)
        module.use_reentrant = saves
        replace_forward(module, with_weight(lambda weight: weight * 3))
        inputs = INPUTS.clone().requires_grad_()
        module(inputs).sum().backward()
        gradients.append(inputs.grad)
    expected, found = gradients
    assert expected is not None
    assert found is not None
    assert torch.equal(expected, found)


def test_threads_may_call_one_module_at_once() -> None:
    layer, waits = nn.Linear(4, 3), threading.Barrier(2, timeout=10)
    expected = nn.functional.linear(INPUTS, 2 * layer.weight, layer.bias)

    def run(module: nn.Module, original: Callable[..., Any], *args: Any) -> Any:
        return scaled(module, partial(late, original), *args)

    def late(original: Callable[..., Any], module: nn.Module, inputs: Tensor, turn: int) -> Any:
        for _ in range(turn):
            waits.wait()  # until the other one has returned
        outputs = original(module, inputs)
        if not turn:
            waits.wait()
        return outputs

    scaled = with_weight(lambda weight: weight * 2)
    replace_forward(layer, run)
    outputs: list[Tensor] = []
    threads = [threading.Thread(target=lambda turn=turn: outputs.append(layer(INPUTS, turn))) for turn in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 2
    assert all(torch.equal(each, expected) for each in outputs)


def test_autocast_computes_in_16_bits_and_gradients_stay_in_32() -> None:
    layer = nn.Linear(4, 3)
    gate, handle = gated(layer)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layer(INPUTS)
        expected = nn.functional.linear(INPUTS, layer.weight * gate.values, layer.bias)
    assert outputs.dtype == torch.bfloat16
    assert torch.equal(outputs, expected)
    outputs.float().sum().backward()
    assert [each.grad.dtype for each in (layer.weight, gate.values) if each.grad is not None] == [torch.float32] * 2
    handle.remove()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(INPUTS), nn.functional.linear(INPUTS, layer.weight, layer.bias))


def test_functional_calls_of_the_network_pass_their_own_weights() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3, bias=False))
    gate, _ = gated(net[1])
    inner = net[0](INPUTS)
    others = torch.ones(3, 4)
    outputs = torch.func.functional_call(net, {"1.weight": others}, (INPUTS,))
    assert torch.equal(outputs, inner @ (others * gate.values).T)
    gradient = torch.func.grad(lambda weight: torch.func.functional_call(net, {"1.weight": weight}, (INPUTS,)).sum())
    torch.testing.assert_close(gradient(others), inner.sum(0) * gate.values)


def breaking(gate: Gate, weight: Tensor) -> Tensor:
    """Compute what code of `torch.compile` can't be made of."""
    torch._dynamo.graph_break()
    return gate(weight)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # PyTorch's own look
@pytest.mark.parametrize("breaks", [True, False])
@pytest.mark.parametrize("case", [case for case in CASES if "LSTM" not in case and case not in ("GRU", "parametrized")])
def test_compiled_networks_compute_with_the_weights_also_after_a_graph_break(case: str, breaks: bool) -> None:
    torch._dynamo.reset()
    make, name, arguments = CASES[case]
    module = make()
    gate = Gate(module.get_parameter(name))
    replace_forward(module, with_weight(partial(breaking, gate) if breaks else gate, name))
    # A plain module of the same class, whose compiled code must not be that of the other one.
    plain = restored_copy(module)
    expected = [called(plain, arguments), called(module, arguments)]
    compiled = [torch.compile(each, backend="eager") for each in (plain, module)]
    for _ in range(2):
        assert [equal(called(each, arguments), of) for each, of in zip(compiled, expected, strict=True)] == [True] * 2
    backward(compiled[1], arguments)
    assert gate.values.grad is not None
    assert module.get_parameter(name).grad is not None
