"""L0 regularization agrees with a slow version that is written from the paper: every gate, weight and mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from double_network import gradients, network
from loops import Loop
from slow_hard_concrete import (
    Options,
    Values,
    counted_probability,
    finished,
    gate_in_evaluation,
    probability_of_being_open,
    sampled_gate,
    sampled_gate_slope,
    slow_l0,
)
from torch import Tensor
from torch.optim import SGD

from lightning_sparse.methods.dense_to_sparse.hard_concrete import (
    hard_concrete_sample,
    hard_concrete_test,
    probability_active,
)
from lightning_sparse.methods.dense_to_sparse.l0_regularization import L0Regularization

WEIGHTS = ("0.weight", "2.weight")
LOG_ALPHA = [-4.605, -2.5, -2.3, -1.0, 0.0, 0.3, 2.2, 2.5, 4.605]
UNIFORM = [1e-6, 0.02, 0.3, 0.5, 0.77, 0.999, 1 - 1e-6]
STEPS = 25


@pytest.mark.parametrize("beta", [2 / 3, 0.2, 1.5])
def test_gates_are_those_of_the_slow_version(beta: float) -> None:
    log_alpha = torch.tensor(LOG_ALPHA, dtype=torch.float64).repeat_interleave(len(UNIFORM)).requires_grad_()
    uniform = torch.tensor(UNIFORM, dtype=torch.float64).repeat(len(LOG_ALPHA))
    sampled = hard_concrete_sample(log_alpha, uniform, beta)
    (slopes,) = torch.autograd.grad(sampled.sum(), [log_alpha])
    pairs = [*zip(log_alpha.tolist(), uniform.tolist(), strict=True)]
    assert sampled.tolist() == pytest.approx([sampled_gate(a, u, beta) for a, u in pairs], rel=1e-12)
    assert slopes.tolist() == pytest.approx([sampled_gate_slope(a, u, beta) for a, u in pairs], rel=1e-9)
    assert {0.0, 1.0} < set(sampled.tolist())
    tested, probabilities = hard_concrete_test(log_alpha), probability_active(log_alpha, beta)
    assert tested.tolist() == pytest.approx([gate_in_evaluation(a) for a, _ in pairs], rel=1e-12)
    assert probabilities.tolist() == pytest.approx([probability_of_being_open(a, beta) for a, _ in pairs], rel=1e-12)


@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 1.5])
def test_the_probability_of_being_open_is_what_counting_finds(log_alpha: float) -> None:
    found = float(probability_active(torch.tensor(log_alpha)))
    assert found == pytest.approx(counted_probability(log_alpha, 20_000), abs=1e-4)


def test_the_slow_version_has_the_numbers_of_a_calculation_by_hand() -> None:
    # log alpha = 0: 1 / (1 + (1/11)^(2/3)) = 0.83182, and 0.5 * 1.2 - 0.1 = 0.5
    assert probability_of_being_open(0.0) == pytest.approx(0.83182, abs=5e-6)
    assert gate_in_evaluation(0.0) == pytest.approx(0.5)
    assert sampled_gate(0.0, 0.5) == pytest.approx(0.5)
    assert sampled_gate_slope(0.0, 0.5) == pytest.approx(1.2 * 0.25 * 1.5)


def gates_of(loop: Loop) -> dict[str, Any]:
    return dict(vars(loop.method)["_gates"])


def listed(tensors: dict[str, Tensor]) -> Values:
    return {name: each.detach().flatten().tolist() for name, each in tensors.items()}


def log_alpha_of(loop: Loop) -> Values:
    return listed(loop.method.state_dict()["log_alpha"])


def uniform_of(loop: Loop) -> Values:
    return listed({name: vars(gate)["_uniform"] for name, gate in gates_of(loop).items()})


def weights_of(loop: Loop) -> Values:
    return listed({name: loop.net.get_parameter(name) for name in WEIGHTS})


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        Options(strength=0.1, examples=4, lr=1.0),
        Options(strength=1.0, examples=60_000, lr=2.0),
        Options(strength=1.0, examples=2, lr=0.5, beta=0.3),
        Options(strength=60.0, examples=60, lr=1.0),
    ],
    ids=lambda options: f"{options.strength} of {options.examples}",
)
def test_every_weight_location_and_mask_is_that_of_the_slow_version(options: Options, seed: int) -> None:
    method = L0Regularization(options.strength, options.examples, temperature=options.beta)
    loop = Loop(method, 1.0, network(seed), make_optimizer=lambda parameters: SGD(parameters, options.lr), seed=seed)
    start, seen, uniforms = (weights_of(loop), log_alpha_of(loop)), [], [uniform_of(loop)]

    def look(loop: Loop) -> None:
        seen.append((weights_of(loop), log_alpha_of(loop)))
        uniforms.append(uniform_of(loop))

    loop.train(STEPS, look)
    slow = slow_l0(*start, uniforms[:STEPS], gradients(network(seed)), options)
    assert len(seen) == len(slow) == STEPS
    for (weights, log_alpha), expected in zip(seen, slow, strict=True):
        for name in WEIGHTS:
            assert weights[name] == pytest.approx(expected.weights[name], rel=1e-6, abs=1e-12)
            assert log_alpha[name] == pytest.approx(expected.log_alpha[name], rel=1e-6, abs=1e-12)
    loop.driver.finish()
    weights, masks = finished(slow[-1])
    assert {name: mask.flatten().tolist() for name, mask in loop.network.masks.items()} == masks
    for name in WEIGHTS:
        assert weights_of(loop)[name] == pytest.approx(weights[name], rel=1e-6, abs=1e-12)


def test_the_compared_runs_end_with_sparse_networks_and_a_dense_one() -> None:
    def active(strength: float) -> int:
        options = Options(strength, 60, 1.0)
        net, generator = network(0), torch.Generator().manual_seed(0)
        weights = listed({name: net.get_parameter(name) for name in WEIGHTS})
        uniforms = [{name: torch.rand(len(weights[name]), generator=generator).tolist() for name in WEIGHTS}]
        zeros = {name: [0.0] * len(weights[name]) for name in WEIGHTS}
        moment = slow_l0(weights, zeros, uniforms * STEPS, gradients(net), options)[-1]
        return sum(sum(mask) for mask in finished(moment)[1].values())

    assert active(1e-3) == 160
    assert active(60.0) < 160
