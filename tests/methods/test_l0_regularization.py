"""L0 regularization: gates are trained with the weights, and at the end they are masks of a plain module."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import FEATURES, Loop, active, batch, small_network
from tiny_training import (
    At,
    ShufflingLoader,
    TinyModule,
    classifier,
    differences,
    everything,
    fit,
    saved,
    saving_everywhere,
    stray_weights,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam
from witness import scaled

from lightning_sparse import SparseTrainingCallback
from lightning_sparse.execution import replace_forward, replaced_forward
from lightning_sparse.methods import MethodDriver, Progress
from lightning_sparse.methods.dense_to_sparse.hard_concrete import (
    EPSILON,
    LEAST_LOG_ALPHA,
    MOST_LOG_ALPHA,
    draw_log_alpha,
    draw_uniform,
    hard_concrete_sample,
    hard_concrete_test,
    probability_active,
)
from lightning_sparse.methods.dense_to_sparse.l0_regularization import L0Regularization
from lightning_sparse.network import SparseNetwork
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError

pytestmark = [
    # The resumed runs save no checkpoints of their own.
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    # Nor is it of interest that they start in the middle of an epoch.
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

NAMES = ("0.weight", "2.weight")
INPUTS = torch.randn(5, FEATURES, generator=torch.Generator().manual_seed(3))


def gates_of(method: Any) -> dict[str, Any]:
    return dict(vars(method)["_gates"])


def adam(parameters: Any) -> Adam:
    return Adam(parameters, lr=0.05)


def strong() -> L0Regularization:
    """Return a method that closes about half of the gates of a small network in 20 steps."""
    return L0Regularization(strength=1.0, examples=3000, drop_rate=0.85)


def spread(loop: Loop) -> None:
    """Open and close gates by chance, in each layer about half of them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for log_alpha in loop.method.extra_parameters():
            log_alpha.copy_(torch.randn(log_alpha.shape, generator=generator) * 3 - 2)


def handles_of(net: nn.Module) -> list[str]:
    return [name for name, module in net.named_modules() if replaced_forward(module) is not None]


def evaluated(net: nn.Module, inputs: Tensor = INPUTS) -> Tensor:
    """Return outputs in evaluation mode; the mode stays as it was."""
    was_training = net.training
    with torch.no_grad():
        outputs: Tensor = net.eval()(inputs)
    net.train(was_training)
    return outputs


# Functions of tensors


def test_gates_have_the_worked_numbers() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(probability_active(zero)) == pytest.approx(0.83182, abs=5e-6)
    assert float(hard_concrete_test(zero)) == pytest.approx(0.5)


def test_gates_are_exactly_zero_or_one_with_some_probability() -> None:
    uniform = draw_uniform((100_000,), torch.Generator().manual_seed(0))
    for location in (-1.0, 0.0, 2.0):
        log_alpha = torch.full_like(uniform, location)
        gates = hard_concrete_sample(log_alpha, uniform)
        assert gates.min() == 0
        assert gates.max() == 1
        open_ones = float((gates > 0).float().mean())
        assert open_ones == pytest.approx(float(probability_active(log_alpha[:1])), abs=5e-3)


@pytest.mark.parametrize("uniform", [EPSILON, 0.5, 1 - EPSILON])
@pytest.mark.parametrize("location", [LEAST_LOG_ALPHA, 0.0, MOST_LOG_ALPHA])
def test_gates_and_their_gradients_are_finite_at_the_ends(uniform: float, location: float) -> None:
    log_alpha = torch.full((1,), location, requires_grad=True)
    gate = hard_concrete_sample(log_alpha, torch.full((1,), uniform))
    (gradient,) = torch.autograd.grad(gate.sum(), [log_alpha])
    assert torch.isfinite(gate).all()
    assert torch.isfinite(gradient).all()


def test_a_lower_temperature_leaves_fewer_gates_in_between() -> None:
    uniform = draw_uniform((10_000,), torch.Generator().manual_seed(0))
    gates = [hard_concrete_sample(torch.zeros_like(uniform), uniform, temperature) for temperature in (1.0, 0.1)]
    warm, cold = (int(((each > 0) & (each < 1)).sum()) for each in gates)
    assert cold < warm / 3


def test_uniform_numbers_are_inside_of_their_range_and_depend_on_the_generator_only() -> None:
    draws = [draw_uniform((4000, 2000), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert draws[0].equal(draws[1])
    assert not draws[0].equal(draws[2])
    assert draws[0].min() >= EPSILON
    assert draws[0].max() < 1
    assert torch.isfinite(torch.log1p(-draws[0])).all()
    assert draws[0].shape == (4000, 2000)


@pytest.mark.parametrize("drop_rate", [0.1, 0.5, 0.8])
def test_initial_locations_are_around_the_log_odds(drop_rate: float) -> None:
    log_alpha = draw_log_alpha((200, 200), drop_rate, torch.Generator().manual_seed(0))
    assert float(log_alpha.mean()) == pytest.approx(log((1 - drop_rate) / drop_rate), abs=1e-3)
    assert float(log_alpha.std()) == pytest.approx(0.01, rel=0.05)


# In a plain loop


def test_in_training_gates_are_those_of_the_step_and_in_evaluation_they_have_their_test_values() -> None:
    loop = Loop(L0Regularization(drop_rate=0.8), 1.0)
    plain = small_network()
    for mode in (True, False):
        tensors = {
            name: plain.get_parameter(name) * gate.values(training=mode) for name, gate in gates_of(loop.method).items()
        }
        expected = torch.func.functional_call(plain, tensors, (INPUTS,))
        assert loop.net.train(mode)(INPUTS).equal(expected)
    assert not evaluated(plain).equal(evaluated(loop.net))


def test_gates_change_after_each_step_and_not_in_between() -> None:
    loop = Loop(L0Regularization(), 1.0)
    outputs = [loop.net(INPUTS).detach() for _ in range(2)]
    assert outputs[0].equal(outputs[1])
    seeds = [loop.method.state_dict()["seeds"]]
    loop.train(4, lambda loop: seeds.append(loop.method.state_dict()["seeds"]))
    assert len({seed for each in seeds for seed in each.values()}) == 5 * 2


@pytest.mark.parametrize("strength", [1e-9, 1.0])
def test_a_price_closes_gates_and_without_one_they_stay_open(strength: float) -> None:
    loop = Loop(L0Regularization(strength, examples=100), 1.0, make_optimizer=adam)
    loop.train(60)
    assert sum(active(loop.network).values()) == 160
    loop.driver.finish()
    left = sum(active(loop.network).values())
    assert (left < 120) == (strength == 1.0)
    assert left > 20


def test_the_penalty_is_the_price_of_the_expected_number_of_weights() -> None:
    loop = Loop(L0Regularization(0.3, examples=7), 1.0)
    log_alpha = loop.method.state_dict()["log_alpha"]
    expected = 0.3 / 7 * sum(float(probability_active(each).sum()) for each in log_alpha.values())
    penalty = loop.method.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("make_optimizer", [adam, lambda p: SGD(p, lr=100.0)])
def test_locations_stay_in_their_range(make_optimizer: Any) -> None:
    loop = Loop(L0Regularization(5.0, examples=1), 1.0, make_optimizer=make_optimizer)

    def look(loop: Loop) -> None:
        for each in loop.method.state_dict()["log_alpha"].values():
            assert each.min() >= LEAST_LOG_ALPHA - 1e-6
            assert each.max() <= MOST_LOG_ALPHA + 1e-6

    loop.train(40, look)


def test_at_the_end_the_plain_module_computes_what_it_did_with_gates() -> None:
    loop = Loop(strong(), 1.0, make_optimizer=adam)
    loop.train(20)
    before = evaluated(loop.net)
    log_alpha = loop.method.state_dict()["log_alpha"]
    assert handles_of(loop.net) == ["0", "2"]
    loop.driver.finish()
    assert handles_of(loop.net) == []
    assert evaluated(loop.net).equal(before)
    plain = small_network()
    plain.load_state_dict(loop.net.state_dict(), strict=True)
    assert evaluated(plain).equal(before)
    assert loop.network.count_outside() == {}
    assert 0 < sum(active(loop.network).values()) < 160
    for name, mask in loop.network.masks.items():
        assert mask.equal(hard_concrete_test(log_alpha[name]) > 0)


def test_finishing_twice_changes_nothing_more() -> None:
    loop = Loop(strong(), 1.0, make_optimizer=adam)
    loop.train(20)
    loop.driver.finish()
    weights, masks = copy.deepcopy(loop.net.state_dict()), loop.network.masks
    loop.driver.finish()
    assert differences([dict(loop.net.state_dict()), loop.network.masks], [dict(weights), masks]) == []


def test_without_an_end_weights_stay_and_modules_are_plain_again() -> None:
    loop = Loop(strong(), 1.0, make_optimizer=adam)
    loop.train(20)
    weights = copy.deepcopy(loop.net.state_dict())
    loop.driver.release()
    assert handles_of(loop.net) == []
    assert differences(dict(loop.net.state_dict()), dict(weights)) == []
    plain = small_network()
    plain.load_state_dict(weights)
    assert evaluated(loop.net).equal(evaluated(plain))


def test_gates_depend_on_the_seed_of_the_network_only() -> None:
    def run(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed + 1 + int(torch.randint(100, (1,))))
        loop = Loop(strong(), 1.0, make_optimizer=adam, seed=seed)
        loop.train(3)
        return loop.method.state_dict()

    assert differences(run(5), run(5)) == []
    assert differences(run(5), run(6)) != []


class Tied(nn.Module):
    """Two layers with one weight, and a third one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.second.weight = self.first.weight
        self.last = nn.Linear(FEATURES, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.second(self.first(inputs).relu()))
        return outputs


def test_a_tied_weight_has_the_same_gates_in_all_of_its_places() -> None:
    loop = Loop(strong(), 1.0, Tied(), make_optimizer=adam)
    assert [*gates_of(loop.method)] == ["first.weight", "last.weight"]
    assert handles_of(loop.net) == ["first", "second", "last"]
    loop.train(3)
    spread(loop)
    before = evaluated(loop.net)
    loop.driver.finish()
    assert evaluated(loop.net).equal(before)
    assert 30 < active(loop.network)["first.weight"] < 110


class Attentive(nn.Module):
    """Attention and a recurrent layer, whose weights are read by modules that don't own all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(FEATURES, 2, batch_first=True)
        self.recurrent = nn.LSTM(FEATURES, 6, batch_first=True)
        self.last = nn.Linear(6, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        sequences = inputs.view(-1, 1, FEATURES).expand(-1, 3, -1) * torch.arange(1, 4).view(1, 3, 1)
        attended, _ = self.attention(sequences, sequences, sequences)
        outputs: Tensor = self.last(self.recurrent(attended)[0][:, -1])
        return outputs


def test_gates_of_attention_and_recurrent_layers_are_used() -> None:
    include = ["default", "MultiheadAttention", "attention.out_proj", "LSTM"]
    loop = Loop(strong(), 1.0, Attentive(), make_optimizer=adam, include=include)
    assert "attention.out_proj.weight" in gates_of(loop.method)
    assert handles_of(loop.net) == ["attention", "recurrent", "last"]
    loop.train(3)
    ungated = evaluated(loop.net)
    spread(loop)
    before = evaluated(loop.net)
    loop.driver.finish()
    torch.testing.assert_close(evaluated(loop.net), before)
    assert not torch.allclose(before, ungated)
    assert all(0.2 < layer.density < 0.8 for layer in loop.network.layers.values())


def test_a_network_without_any_open_gate_is_saved_and_restored() -> None:
    loop = Loop(L0Regularization(), 1.0)
    with torch.no_grad():
        for log_alpha in loop.method.extra_parameters():
            log_alpha.fill_(LEAST_LOG_ALPHA)
    loop.driver.finish()
    assert active(loop.network) == {"0.weight": 0, "2.weight": 0}
    restored = SparseNetwork(small_network(), density=1.0, state=loop.network.state_dict())
    assert active(restored) == {"0.weight": 0, "2.weight": 0}


class Reader(nn.Module):
    """Computes with the weight of a layer that it doesn't call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(FEATURES, 4, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.inner.weight)


def test_a_weight_that_is_read_without_its_gates_is_an_error() -> None:
    loop = Loop(L0Regularization(), 1.0, Reader())
    with pytest.raises(InvalidStateError, match=r"computes with the gates of 'inner.weight'.*exclude='inner.weight'"):
        loop.train(1)


def test_a_forward_that_is_replaced_already_is_an_error_and_the_others_are_restored() -> None:
    net, method = small_network(), L0Regularization()
    network = SparseNetwork(net, density=1.0)
    handle = replace_forward(net[2], lambda module, original, inputs: original(module, inputs))
    with pytest.raises(InvalidValueError, match="replaced already"):
        MethodDriver(method, network, 1.0).start()
    assert handles_of(net) == ["2"]
    handle.remove()


def test_frozen_weights_have_no_gates() -> None:
    net, method = small_network(), L0Regularization()
    network = SparseNetwork(net, density=1.0)
    net.get_parameter("0.weight").requires_grad_(False)
    MethodDriver(method, network, 1.0).start()
    assert [*gates_of(method)] == ["2.weight"]
    assert handles_of(net) == ["2"]


def test_layers_that_stay_dense_have_no_gates() -> None:
    loop = Loop(strong(), 1.0, dense="2")
    assert [*gates_of(loop.method)] == ["0.weight"]
    assert handles_of(loop.net) == ["0"]


def test_weights_that_are_inactive_from_the_start_stay_so() -> None:
    net, method = small_network(), L0Regularization(1e-6)
    network = SparseNetwork(net, density=0.5, seed=0)
    before = network.masks
    driver = MethodDriver(method, network, 0.5)
    driver.start()
    driver.finish()
    assert all((mask & ~before[name]).sum() == 0 for name, mask in network.masks.items())
    assert network.count_outside() == {}


def test_weights_of_two_optimizers_have_gates_of_their_own_steps() -> None:
    net, method = small_network(), L0Regularization()
    network = SparseNetwork(net, density=1.0, seed=0)
    driver = MethodDriver(method, network, 1.0)
    optimizers = [SGD(net[0].parameters(), lr=0.1), SGD(net[2].parameters(), lr=0.1)]
    driver.start()
    for optimizer in optimizers:
        network.attach(optimizer)
    driver.attach(optimizers)
    seeds = [method.state_dict()["seeds"]]
    for optimizer in optimizers:
        net.zero_grad()
        net(INPUTS).square().mean().backward()
        driver.gradients_ready(optimizer, Progress(0))
        optimizer.step()
        seeds.append(method.state_dict()["seeds"])
    changed = [[name for name in NAMES if now[name] != then[name]] for then, now in pairwise(seeds)]
    assert changed == [["0.weight"], ["2.weight"]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_dtypes_have_gates_of_at_least_single_precision(dtype: torch.dtype) -> None:
    net = small_network().to(dtype)
    net.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
    net.register_forward_hook(lambda _, inputs, outputs: outputs.float())
    loop = Loop(strong(), 1.0, net, make_optimizer=lambda p: SGD(p, lr=5.0))
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert {each.dtype for each in loop.method.extra_parameters()} == {expected}
    loop.train(30)
    before = evaluated(loop.net)
    loop.driver.finish()
    assert evaluated(loop.net).equal(before)
    assert {parameter.dtype for parameter in net.parameters()} == {dtype}


def test_a_copy_of_the_model_has_gates_of_its_own() -> None:
    loop = Loop(strong(), 1.0, make_optimizer=adam)
    loop.train(5)
    copied = copy.deepcopy(loop.net)
    before = evaluated(copied)
    assert before.equal(evaluated(loop.net))
    loop.train(5)
    assert evaluated(copied).equal(before)
    assert not evaluated(loop.net).equal(before)


def test_a_compiled_network_has_the_gates_of_each_step_and_mode() -> None:
    torch._dynamo.reset()
    loop = Loop(strong(), 1.0, make_optimizer=adam)
    compiled: Any = torch.compile(loop.net, backend="eager")
    outputs = []
    for _ in range(3):
        assert compiled(INPUTS).equal(loop.net(INPUTS))
        assert evaluated(compiled).equal(evaluated(loop.net))
        outputs.append(compiled(INPUTS).detach())
        loop.train(1)
    assert not any(one.equal(other) for one, other in pairwise(outputs))
    loop.driver.finish()
    assert compiled(INPUTS).equal(loop.net(INPUTS))


def test_a_network_learns_with_few_weights() -> None:
    images = torch.randn(64, FEATURES, generator=torch.Generator().manual_seed(0))
    classes, losses = images[:, :4].argmax(1), []
    loop = Loop(L0Regularization(0.3, examples=64), 1.0, make_optimizer=adam)
    for step in range(200):
        loop.optimizer.zero_grad()
        nn.functional.cross_entropy(loop.net(images), classes).backward()  # type: ignore[no-untyped-call]  # PyTorch's
        loop.driver.gradients_ready(loop.optimizer, Progress(step))
        loop.optimizer.step()
        losses.append(nn.functional.cross_entropy(evaluated(loop.net, images), classes).item())
    loop.driver.finish()
    assert losses[-1] < 0.3 * losses[0]
    assert loop.network.density < 0.7


# Arguments and states


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0}, "strength as a finite number > 0"),
        ({"strength": -1.0}, "strength as a finite number > 0"),
        ({"strength": float("inf")}, "strength as a finite number > 0"),
        ({"strength": "1"}, "strength as a finite number > 0"),
        ({"examples": 0}, "examples as the number of training examples"),
        ({"examples": 1.5}, "examples as the number of training examples"),
        ({"drop_rate": 0.0}, "drop_rate as a number above 0 and below 1"),
        ({"drop_rate": 1.0}, "drop_rate as a number above 0 and below 1"),
        ({"temperature": 0.0}, "temperature as a finite number > 0"),
        ({"temperature": float("nan")}, "temperature as a finite number > 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        L0Regularization(**options)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0, {"0": 0.5}])
def test_a_density_is_refused_where_it_enters(density: Any) -> None:
    with pytest.raises(InvalidValueError, match="Expected no density"):
        SparseTrainingCallback(method=L0Regularization(), density=density)


def test_without_a_density_the_network_is_dense_at_first() -> None:
    callback = SparseTrainingCallback(method=L0Regularization())
    fit(callback, max_epochs=1)
    assert callback.network.density == 1.0  # gates have had no time to close


def damaged(state: dict[str, Any], how: str) -> Any:
    alphas, seeds = state["log_alpha"], state["seeds"]
    changes: dict[str, Any] = {
        "no mapping": None,
        "a list": [1, 2],
        "no seeds": {name: part for name, part in state.items() if name != "seeds"},
        "another entry": {**state, "more": 1},
        "another layer": {**state, "log_alpha": {"0.weight": alphas["0.weight"]}},
        "another shape": {**state, "log_alpha": {**alphas, "0.weight": torch.zeros(2, 2)}},
        "integers": {**state, "log_alpha": {**alphas, "0.weight": torch.zeros(10, 12, dtype=torch.int64)}},
        "a negative seed": {**state, "seeds": {**seeds, "0.weight": -1}},
        "no seed": {**state, "seeds": {**seeds, "0.weight": None}},
        "another random state": {**state, "random_state": torch.zeros(3, dtype=torch.uint8)},
        "no random state": {**state, "random_state": 5},
        "no truth value": {**state, "is_finished": 1},
    }
    return changes[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no mapping", "log alpha and seeds of"),
        ("a list", "log alpha and seeds of"),
        ("no seeds", "log alpha and seeds of"),
        ("another entry", "log alpha and seeds of"),
        ("another layer", "log alpha and seeds of"),
        ("another shape", r"log alpha of shape \(10, 12\) and a seed for '0\.weight'; got Tensor of shape \(2, 2\)"),
        ("integers", r"log alpha of shape \(10, 12\)"),
        ("a negative seed", "a seed for '0.weight'; got .* and -1"),
        ("no seed", "a seed for '0.weight'; got .* and None"),
        ("another random state", "a generator's state"),
        ("no random state", "a generator's state"),
        ("no truth value", "log alpha and seeds of"),
    ],
)
def test_a_damaged_state_is_refused_and_nothing_changes(how: str, message: str) -> None:
    loop = Loop(L0Regularization(), 1.0)
    before = loop.method.state_dict()
    with pytest.raises(InvalidValueError, match=message):
        loop.method.load_state_dict(damaged(loop.method.state_dict(), how))
    assert differences(loop.method.state_dict(), before) == []


def test_a_state_is_a_copy_and_restores_the_gates_of_the_step() -> None:
    loop = Loop(L0Regularization(), 1.0)
    loop.train(2)
    state, weights = loop.method.state_dict(), copy.deepcopy(loop.net.state_dict())
    kept, outputs = copy.deepcopy(state), loop.net(batch(2)[0]).detach()
    loop.train(2)
    assert differences(state, kept) == []
    other = Loop(L0Regularization(), 1.0, seed=8)
    other.net.load_state_dict(weights)
    other.method.load_state_dict(state)
    assert other.net(batch(2)[0]).equal(outputs)


# In a Lightning Trainer


def sparse(strength: float = 1.0) -> SparseTrainingCallback:
    return SparseTrainingCallback(method=L0Regularization(strength, examples=20, drop_rate=0.85))


class SavesEverything(At):
    """Saves a checkpoint after every step."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            "on_train_batch_end", lambda run, _: run.save_checkpoint(folder / f"{run.global_step:02d}.ckpt")
        )


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_run_resumes_exactly_from_every_checkpoint(tmp_path: Path, optimizer: str) -> None:
    callback = sparse()
    run = fit(callback, *saving_everywhere(tmp_path), module=TinyModule(optimizer), max_epochs=4)
    expected = everything(run, callback)
    checkpoints = saved(tmp_path)
    assert len(checkpoints) == run.global_step + 2 * run.current_epoch
    wrong = {}
    for moment, path in checkpoints.items():
        torch.manual_seed(99)
        resumed = sparse()
        rerun = fit(resumed, module=TinyModule(optimizer), ckpt_path=path, max_epochs=4)
        wrong[moment] = differences(everything(rerun, resumed), expected)
    # Nothing is left to train of this one, so Lightning doesn't end the training that it resumes.
    del wrong["epoch step=12"]
    assert {moment: places for moment, places in wrong.items() if places} == {}


def run_through(*callbacks: Any, module: Any = None, **options: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Train; return the run, the callback, and what was seen of the gates, of the network before the end."""
    callback, seen = sparse(), dict[str, Any](masked=[], outputs=None)

    def look(run: Any, module: Any) -> None:
        seen["masked"].append((callback.network.density, stray_weights(callback, module)))
        seen["handles"] = handles_of(module)
        seen["outputs"] = evaluated(module.net, torch.ones(2, 6, dtype=module.dtype))
        seen["log_alpha"] = callback.state_dict()["method"]["state"]["log_alpha"]

    options.setdefault("max_epochs", 8)
    run = fit(callback, At("on_train_batch_end", look), *callbacks, module=module or TinyModule("adam"), **options)
    return run, callback, seen


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}, {"precision": "bf16-true"}, {"scaled": True}],
    ids=str,
)
def test_a_run_is_dense_until_it_ends_and_sparse_then(options: dict[str, Any]) -> None:
    options = {"plugins": scaled()} if options == {"scaled": True} else options
    run, callback, seen = run_through(**options)
    assert set(map(str, seen["masked"])) == {"(1.0, {})"}
    assert seen["handles"] == ["net.0", "net.3"]
    assert handles_of(run.lightning_module) == []
    assert stray_weights(callback, run.lightning_module) == {}
    assert 0 < callback.network.density < 1
    for name, mask in callback.network.masks.items():
        assert mask.equal(hard_concrete_test(seen["log_alpha"][name]) > 0)
    module = run.lightning_module
    assert evaluated(module.net, torch.ones(2, 6, dtype=module.dtype)).equal(seen["outputs"])


def test_accumulated_batches_have_the_same_gates() -> None:
    seeds: list[int] = []
    callback = sparse()
    look = At(
        "on_train_batch_start",
        lambda *_: seeds.append(callback.state_dict()["method"]["state"]["seeds"]["net.0.weight"]),
    )
    fit(callback, look, accumulate_grad_batches=3, max_epochs=2)
    assert [seeds.index(seed) for seed in seeds] == [0, 0, 0, 3, 3, 3]


def test_checkpoints_have_the_keys_of_a_plain_module(tmp_path: Path) -> None:
    callback = sparse()
    fit(callback, SavesEverything(tmp_path))
    checkpoint = torch.load(tmp_path / "05.ckpt", weights_only=True)
    assert [*checkpoint["state_dict"]] == [*TinyModule().state_dict()]
    plain = classifier()
    plain.load_state_dict({name.removeprefix("net."): each for name, each in checkpoint["state_dict"].items()})


def test_validation_sees_the_gates_of_evaluation() -> None:
    callback, found = sparse(), []

    def look(_: Any, module: Any) -> None:
        assert not module.net.training
        gates = callback.state_dict()["method"]["state"]["log_alpha"]
        tensors = {
            name.removeprefix("net."): module.get_parameter(name) * hard_concrete_test(each)
            for name, each in gates.items()
        }
        plain = classifier().eval()
        plain.load_state_dict(module.net.state_dict())
        inputs = torch.ones(2, 6)
        found.append(module.net(inputs).equal(torch.func.functional_call(plain, tensors, (inputs,))))

    fit(callback, At("on_validation_batch_end", look))
    assert found == [True] * len(found)
    assert len(found) > 3


class Failing(TinyModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if self.global_step == 4:
            raise OSError("no disk")
        return super().training_step(batch, batch_idx)


def test_a_run_that_fails_leaves_plain_modules_with_their_weights_and_can_be_resumed(tmp_path: Path) -> None:
    callback, module = sparse(), Failing("adam")
    with pytest.raises(OSError, match="no disk"):
        fit(callback, SavesEverything(tmp_path), module=module)
    assert handles_of(module) == []
    saved_weights = torch.load(tmp_path / "04.ckpt", weights_only=True)["state_dict"]
    assert differences(dict(module.state_dict()), dict(saved_weights)) == []
    whole, resumed = sparse(), sparse()
    expected = everything(fit(whole, module=TinyModule("adam")), whole)
    rerun = fit(resumed, module=TinyModule("adam"), ckpt_path=str(tmp_path / "04.ckpt"))
    assert differences(everything(rerun, resumed), expected) == []


def test_a_run_that_is_continued_after_its_end_trains_the_sparse_network_without_gates(tmp_path: Path) -> None:
    run, callback, _ = run_through()
    run.save_checkpoint(tmp_path / "end.ckpt")
    masks, weights = callback.network.masks, copy.deepcopy(run.lightning_module.state_dict())
    seeds = callback.state_dict()["method"]["state"]["seeds"]
    handles: list[Any] = []
    look = At("on_train_batch_end", lambda _, module: handles.extend(handles_of(module)))

    resumed = sparse()
    rerun = fit(resumed, look, module=TinyModule("adam"), ckpt_path=str(tmp_path / "end.ckpt"), max_epochs=10)
    run.fit_loop.max_epochs = 10
    run.fit(run.lightning_module, ShufflingLoader(), ShufflingLoader(1))

    assert handles == []
    assert [each.state_dict()["method"]["state"]["seeds"] for each in (callback, resumed)] == [seeds, seeds]
    assert differences([callback.network.masks, resumed.network.masks], [masks, masks]) == []
    for each, its in ((run, callback), (rerun, resumed)):
        assert stray_weights(its, each.lightning_module) == {}
        assert differences(dict(each.lightning_module.state_dict()), dict(weights)) != []


class Overflowing(TinyModule):
    """Has gradients that a scaler finds to be infinite in every second step."""

    def loss(self, batch: Any) -> Tensor:
        loss = super().loss(batch)
        return loss * (torch.inf if self.training and self.trainer.fit_loop.total_batch_idx % 2 else 1.0)


def test_skipped_steps_leave_gates_as_they_were() -> None:
    callback, seen = sparse(), []

    def look(run: Any, _: Any) -> None:
        seen.append(copy.deepcopy(callback.state_dict()["method"]["state"]))

    fit(callback, At("on_train_batch_end", look), module=Overflowing(), plugins=scaled(), max_epochs=2)
    assert [differences(seen[i], seen[i + 1]) == [] for i in range(5)] == [True, False, True, False, True]


def test_copies_of_a_callback_in_training_and_after_it_have_its_state() -> None:
    callback = sparse()
    copies: list[Any] = []
    look = At("on_train_batch_end", lambda *_: copies.append((copy.deepcopy(callback), callback.state_dict())))
    fit(callback, look, max_epochs=1)
    copies.append((pickle.loads(pickle.dumps(callback)), callback.state_dict()))
    assert [differences(copied.state_dict(), state) for copied, state in copies] == [[]] * 4


def test_the_method_of_the_user_is_not_changed() -> None:
    method = L0Regularization()
    fit(SparseTrainingCallback(method=method))
    assert gates_of(method) == {}
