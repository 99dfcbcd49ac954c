"""A module is run by something else, everything else of it stays, and what was before comes back."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from gates import gate_of, gated
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from lightning_sparse.execution import ReplacedForward, replace_forward, replaced_forward, with_weight
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

INPUTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def doubled(module: nn.Module, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return 2 * original(module, *args, **kwargs)


def as_before(module: nn.Module, original: Callable[..., Any], *args: Any) -> Any:
    return original(module, *args)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def saved_and_loaded(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": saved_and_loaded,
    "AveragedModel": lambda module: AveragedModel(module).module,
}


class Takes(nn.Module):
    """Returns its arguments, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


def test_run_gets_the_module_its_forward_and_all_arguments_and_its_result_is_returned_as_it_is() -> None:
    module, seen = Takes(), []

    def run(called: nn.Module, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        seen.append((called, original(called, *args, **kwargs)))
        return "result"

    replace_forward(module, run)
    assert module(1, module=2, original=3) == "result"
    assert seen == [(module, ((1,), {"module": 2, "original": 3}))]
    assert module.calls == 1


def test_names_tensors_and_modes_are_those_of_before() -> None:
    net = network()
    named = [dict(net.named_parameters()), dict(net.named_buffers()), dict(net.named_modules())]
    state, text = net.state_dict(), repr(net)
    for layer in (net[0], net[1], net):
        replace_forward(layer, doubled)
    assert [dict(net.named_parameters()), dict(net.named_buffers()), dict(net.named_modules())] == named
    assert {name: value.data_ptr() for name, value in net.state_dict().items()} == {
        name: value.data_ptr() for name, value in state.items()
    }
    assert (repr(net), type(net[0])) == (text, nn.Linear)
    net.eval()
    assert not net[0].training
    net.to(torch.float64).train()
    assert net(INPUTS.double()).dtype == torch.float64
    assert net[0].training


def test_checkpoints_go_to_plain_modules_and_come_from_them() -> None:
    plain, replaced = network().eval(), network().eval()
    expected = plain(INPUTS)
    replace_forward(replaced[3], doubled)
    assert not torch.equal(replaced(INPUTS), 2 * expected)
    replaced.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(replaced(INPUTS), 2 * expected)
    other = network().eval()
    other.load_state_dict(replaced.state_dict(), strict=True)
    assert torch.equal(other(INPUTS), expected)


@pytest.mark.parametrize("replaces", [True, False])
def test_hooks_run_once_a_call(replaces: bool) -> None:
    layer, seen = nn.Linear(4, 3), []
    layer.register_forward_pre_hook(lambda *_: seen.append("before"))
    layer.register_forward_hook(lambda *_: seen.append("after"))
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    handle = replace_forward(layer, with_weight(torch.sin))
    if not replaces:
        handle.remove()
    layer(INPUTS.clone().requires_grad_()).sum().backward()
    assert seen == ["before", "after", "backward"]


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_replaced_and_independent(how: str) -> None:
    net = network().eval()
    gate, _ = gated(net[3])
    expected = net(INPUTS)
    copied = COPIES[how](net)
    assert isinstance(copied, nn.Sequential)
    handle = replaced_forward(copied[3])
    copied_gate = gate_of(copied[3], handle)
    assert torch.equal(copied(INPUTS), expected)
    with torch.no_grad():
        copied_gate.values.zero_()
        copied.get_parameter("3.bias").zero_()
    assert torch.equal(copied(INPUTS), torch.zeros(5, 3))
    assert torch.equal(net(INPUTS), expected)
    assert handle is not None
    handle.remove()
    assert not torch.equal(copied(INPUTS), torch.zeros(5, 3))
    assert replaced_forward(copied[3]) is None
    assert gate_of(net[3], replaced_forward(net[3])) is gate
    assert torch.equal(net(INPUTS), expected)


def test_a_copy_of_a_restored_module_is_plain() -> None:
    layer = nn.Linear(4, 3)
    replace_forward(layer, doubled).remove()
    assert replaced_forward(copy.deepcopy(layer)) is None
    assert torch.equal(copy.deepcopy(layer)(INPUTS), layer(INPUTS))


def test_remove_restores_everything_and_does_nothing_the_second_time() -> None:
    layer = nn.Linear(4, 3)
    before, attributes = layer(INPUTS), dict(vars(layer))
    handle = replace_forward(layer, doubled)
    assert torch.equal(layer(INPUTS), 2 * before)
    assert replaced_forward(layer) is handle
    handle.remove()
    assert torch.equal(layer(INPUTS), before)
    assert replaced_forward(layer) is None
    assert vars(layer) == attributes
    assert not layer._forward_pre_hooks
    second = replace_forward(layer, doubled)
    handle.remove()
    assert replaced_forward(layer) is second
    assert torch.equal(layer(INPUTS), 2 * before)


def test_a_with_block_restores_also_after_an_exception() -> None:
    layer = nn.Linear(4, 3)
    before = layer(INPUTS)
    with replace_forward(layer, doubled) as handle:
        assert replaced_forward(layer) is handle
    assert torch.equal(layer(INPUTS), before)
    with pytest.raises(RuntimeError, match="inside"), replace_forward(layer, doubled):
        raise RuntimeError("inside")
    assert torch.equal(layer(INPUTS), before)


def test_a_forward_of_the_instance_alone_is_what_is_called_and_what_comes_back() -> None:
    layer = nn.Linear(4, 3)
    patched = partial(nn.functional.linear, weight=torch.ones(2, 4))
    layer.forward = patched  # type: ignore[method-assign]  # as some packages do
    handle = replace_forward(layer, doubled)
    assert torch.equal(layer(INPUTS), 2 * patched(INPUTS))
    handle.remove()
    assert vars(layer)["forward"] is patched
    assert torch.equal(layer(INPUTS), patched(INPUTS))


def test_a_forward_that_was_wrapped_since_is_found_and_calls_the_original_after_remove() -> None:
    layer = nn.Linear(4, 3)
    before = layer(INPUTS)
    handle = replace_forward(layer, doubled)
    inner = layer.forward
    layer.forward = lambda input: inner(input) + 1  # type: ignore[method-assign]  # as some packages do
    assert torch.equal(layer(INPUTS), 2 * before + 1)
    assert replaced_forward(layer) is handle
    with pytest.raises(InvalidValueError, match="replaced already"):
        replace_forward(layer, doubled)
    handle.remove()
    assert torch.equal(layer(INPUTS), before + 1)
    layer.forward = inner  # type: ignore[method-assign]  # as they do when they undo it
    assert torch.equal(layer(INPUTS), before)
    assert replaced_forward(layer) is None
    with replace_forward(layer, doubled):
        assert torch.equal(layer(INPUTS), 2 * before)


def test_a_second_replacement_is_an_error_and_the_first_one_stays() -> None:
    layer = nn.Linear(4, 3)
    handle = replace_forward(layer, doubled)
    with pytest.raises(InvalidValueError, match=r"Linear whose forward is replaced already, by doubled\. Cure: "):
        replace_forward(layer, with_weight(torch.sin))
    assert replaced_forward(layer) is handle
    handle.remove()
    with replace_forward(layer, with_weight(torch.sin)):
        assert replaced_forward(layer) is not None


@pytest.mark.parametrize(
    ("module", "run", "message"),
    [
        ("layer", doubled, "a torch.nn.Module that runs in Python; got 'layer'"),
        (nn.Linear, doubled, "a torch.nn.Module that runs in Python; got Linear"),
        (torch.jit.ScriptModule(), doubled, "before TorchScript compiles it"),
        (nn.Linear(4, 3), None, "a function run.*; got None"),
    ],
)
def test_what_is_no_module_or_no_function_is_an_error_with_the_cure(module: Any, run: Any, message: str) -> None:
    with pytest.raises(InvalidTypeError, match=message):
        replace_forward(module, run)


def test_the_output_projection_of_attention_which_is_never_called_is_an_error_with_the_cure() -> None:
    attention = nn.MultiheadAttention(4, 2)
    assert isinstance(attention.out_proj, NonDynamicallyQuantizableLinear)
    with pytest.raises(InvalidValueError, match=r"without calling it\. Cure: .*'out_proj.weight'"):
        replace_forward(attention.out_proj, doubled)
    assert not vars(attention.out_proj).get("forward")


def test_handles_show_themselves_in_one_line() -> None:
    layer = nn.Linear(4, 3)
    assert repr(replace_forward(layer, doubled)) == "ReplacedForward(Linear, doubled)"
    assert repr(gated(nn.Conv2d(1, 1, 1))[1]) == (
        "ReplacedForward(Conv2d, ComputedWeights(computes={'weight': Gate(...)}))"
    )


def test_classes_may_change_while_the_forward_is_replaced() -> None:
    layer = nn.LazyLinear(3)
    replace_forward(layer, doubled)
    outputs = layer(INPUTS)
    assert type(layer) is nn.Linear
    assert torch.equal(outputs, 2 * nn.functional.linear(INPUTS, layer.weight, layer.bias))
    assert torch.equal(layer(INPUTS), outputs)


heeds_hooks = pytest.mark.skipif(
    "_forward_pre_hooks" not in inspect.getsource(nn.TransformerEncoderLayer.forward),
    reason="before PyTorch 2.5 it calls its layers after torch.backends.mha.set_fastpath_enabled(False) only",
)


def encoder_layer() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()


def calls_of_linear1(layer: nn.TransformerEncoderLayer, replace: Callable[[nn.Module, Any], object]) -> int:
    seen = []

    def run(module: nn.Module, original: Callable[..., Tensor], inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return original(module, inputs)

    replace(layer.linear1, run)
    with torch.no_grad():
        layer(torch.randn(2, 3, 8))
    return len(seen)


@heeds_hooks
def test_encoder_layers_call_a_replaced_layer_in_evaluation_too() -> None:
    assert calls_of_linear1(encoder_layer(), replace_forward) == 1


def test_encoder_layers_do_not_call_a_layer_whose_forward_is_patched_by_hand() -> None:
    def patch(module: nn.Module, run: Callable[..., Any]) -> None:
        module.forward = partial(run, module, module.forward)

    assert calls_of_linear1(encoder_layer(), patch) == 0


@heeds_hooks
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padded_sequences_have_the_same_results_with_and_without_gradients() -> None:
    encoder = nn.TransformerEncoder(encoder_layer(), 2).eval()
    for layer in encoder.layers:
        gated(layer.linear1)
    inputs, padding = torch.randn(2, 3, 8), torch.tensor([[False, False, False], [False, False, True]])
    expected = encoder(inputs, src_key_padding_mask=padding)
    with torch.no_grad():
        outputs = encoder(inputs, src_key_padding_mask=padding)
    torch.testing.assert_close(outputs[~padding], expected[~padding])


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("replaces", [True, False])
def test_activation_checkpointing_changes_no_gradient(use_reentrant: bool, replaces: bool) -> None:
    net = network()
    run = (
        with_weight(partial(nn.functional.dropout, p=0.5))
        if replaces
        else lambda module, original, x: original(module, x)
    )
    for layer in (net[0], net[3]):
        replace_forward(layer, run)
    gradients = []
    for forward in (net, partial(checkpoint, net, use_reentrant=use_reentrant)):
        torch.manual_seed(1)
        net.zero_grad()
        forward(INPUTS.clone().requires_grad_()).square().sum().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    for expected, found in zip(*gradients, strict=True):
        assert expected is not None
        assert torch.equal(expected, found)


# Earlier versions divide the code at a replaced forward; what it computes is the same.
ONE_GRAPH = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


class Compiler:
    """A backend of `torch.compile` that runs what was traced, and counts how often something was."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        return graph.forward


@pytest.fixture
def compiler() -> Compiler:
    torch._dynamo.reset()
    return Compiler()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("replaces", [True, False])
def test_a_compiled_network_is_one_graph_and_compiled_once(compiler: Compiler, whole: bool, replaces: bool) -> None:
    layer = nn.Linear(4, 3)
    net = layer if whole else nn.Sequential(nn.Linear(4, 4), layer)
    gate, handle = gated(layer)
    if not replaces:
        handle.remove()
    expected = net(INPUTS)
    compiled = torch.compile(net, backend=compiler, fullgraph=ONE_GRAPH)
    outputs = compiled(INPUTS)
    count = compiler.count
    assert count == 1 or not ONE_GRAPH
    for _ in range(3):
        assert torch.equal(outputs, expected)
        outputs = compiled(INPUTS)
    assert compiler.count == count
    outputs.sum().backward()
    assert (gate.values.grad is not None) == replaces
    assert layer.weight.grad is not None
    assert "weight" not in vars(layer)


def test_a_compiled_network_notices_when_a_forward_is_replaced_and_restored(compiler: Compiler) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    compiled = torch.compile(net, backend=compiler, fullgraph=ONE_GRAPH)
    before = compiled(INPUTS)
    with replace_forward(net[1], doubled):
        assert torch.equal(compiled(INPUTS), 2 * before)
    assert torch.equal(compiled(INPUTS), before)
    assert compiler.count <= 3 or not ONE_GRAPH


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.skipif(not ONE_GRAPH, reason="torch.export makes one graph or none")
def test_exported_networks_compute_what_the_replacement_does(whole: bool) -> None:
    layer = nn.Linear(4, 3)
    net = layer if whole else nn.Sequential(nn.Linear(4, 4), layer)
    before = net(INPUTS)
    with replace_forward(layer, with_weight(torch.sin)):
        exported = torch.export.export(net, (INPUTS,)).module()
        torch.testing.assert_close(exported(INPUTS), net(INPUTS))
    assert not torch.allclose(exported(INPUTS), before)
    torch.testing.assert_close(torch.export.export(net, (INPUTS,)).module()(INPUTS), before)


def test_traced_networks_compute_what_the_replacement_does() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    before = net(INPUTS)
    with replace_forward(net[1], with_weight(torch.sin)):
        traced = torch.fx.symbolic_trace(net)
        assert torch.equal(traced(INPUTS), net(INPUTS))
        assert not torch.equal(traced(INPUTS), before)
    assert torch.equal(traced(INPUTS), before)


def test_run_may_replace_the_forward_of_a_whole_network() -> None:
    net = network().eval()
    expected = net(INPUTS)
    handle = replace_forward(net, doubled)
    assert isinstance(handle, ReplacedForward)
    assert torch.equal(net(INPUTS), 2 * expected)
