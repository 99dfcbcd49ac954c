"""Top-KAST agrees with a slow version that is written from the paper: every set, every value, at every step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from double_network import gradients, network
from loops import Loop, active
from slow_top_kast import Moment, Options, choose, forward_counts, penalty_slope, slow_top_kast
from torch import Tensor, nn
from torch.optim import SGD

from lightning_sparse.methods.throughout.top_kast import TopKast, exploration_gradient, trained_set

WEIGHTS = ("0.weight", "2.weight")
STEPS = 25


class DoubleLoop(Loop):
    """Trains in double precision, so that the two ways of adding up a step are compared closely."""

    def __init__(self, options: Options, net: nn.Module) -> None:
        method = TopKast(options.extra, options.every, options.coefficient, options.power)
        super().__init__(
            method,
            options.density,
            net,
            make_optimizer=lambda parameters: SGD(parameters, options.lr, options.momentum),
        )


def run_both(options: Options, seed: int) -> tuple[list[dict[str, Any]], list[Moment]]:
    """Return the package's run and the slow one, after every step."""
    net = network(seed)
    initial = {name: net.get_parameter(name).detach().flatten().tolist() for name in WEIGHTS}
    slow = slow_top_kast(initial, STEPS, gradients(network(seed)), options)
    seen: list[dict[str, Any]] = []

    def look(loop: Loop) -> None:
        seen.append(
            {
                "masks": {name: set_of(mask) for name, mask in loop.network.masks.items()},
                "weights": {name: loop.net.get_parameter(name).detach().flatten().clone() for name in WEIGHTS},
                "theta": {name: values.flatten() for name, values in loop.method.state_dict()["theta"].items()},
                "trained": {name: set_of(each) for name, each in vars(loop.method)["_trained"].items()},
            }
        )

    loop = DoubleLoop(options, net)
    look(loop)
    loop.train(STEPS, look)
    return seen, slow


def set_of(mask: Tensor) -> set[int]:
    return set(mask.flatten().nonzero().flatten().tolist())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        Options(0.3, 0.2, 4, 1e-3, 2.0, 0.3, 0.0),
        Options(0.1, 0.5, 1, 1e-2, 1.0, 0.3, 0.9),
        Options(0.05, 0.0, 3, 0.0, 2.0, 0.1, 0.9),
        Options(0.6, 1.0, 5, 1e-2, 1.5, 0.5, 0.5),
        Options(1.0, 0.1, 2, 1e-3, 2.0, 0.1, 0.9),
    ],
    ids=lambda options: f"{options.density} + {options.extra}",
)
def test_every_set_and_value_is_that_of_the_slow_version(options: Options, seed: int) -> None:
    seen, slow = run_both(options, seed)
    assert len(seen) == len(slow) == STEPS + 1
    for found, expected in zip(seen, slow, strict=True):
        assert found["masks"] == expected.forward
        assert found["trained"] == expected.backward
        for name in WEIGHTS:
            for kind, values in (("theta", expected.theta[name]), ("weights", expected.weights()[name])):
                wanted = torch.tensor(values, dtype=torch.float64)
                torch.testing.assert_close(found[kind][name], wanted, rtol=1e-6, atol=1e-12)


def test_sets_change_in_the_compared_runs() -> None:
    _, slow = run_both(Options(0.1, 0.5, 1, 1e-2, 1.0, 0.3, 0.9), 0)
    assert len({tuple(sorted(moment.forward["0.weight"])) for moment in slow}) > 3
    assert len({tuple(sorted(moment.backward["0.weight"])) for moment in slow}) > 3


@pytest.mark.parametrize("density", [0.02, 0.05, 0.3, 0.77, 1.0])
def test_counts_are_those_of_the_slow_version(density: float) -> None:
    loop = Loop(TopKast(), density)
    assert active(loop.network) == forward_counts({"0.weight": 120, "2.weight": 40}, density)


@pytest.mark.parametrize("extra", [0.0, 0.1, 0.25, 1.0])
def test_backward_sets_with_ties_are_those_of_the_slow_version(extra: float) -> None:
    theta = torch.tensor([1.0, -2.0, 2.0, 0.0, 0.0, -1.0, 1.0, 2.0])
    forward, backward = choose({"layer": theta.tolist()}, {"layer": 2}, extra)
    mask = torch.zeros(8, dtype=torch.bool)
    mask[list(forward["layer"])] = True
    assert set_of(trained_set(theta, mask, extra)) == backward["layer"]


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0])
def test_the_slope_of_the_penalty_is_that_of_the_slow_version(power: float) -> None:
    theta = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
    everything = torch.ones(3, dtype=torch.bool)
    found = exploration_gradient(theta, everything, everything, 0.5, power)
    assert found.tolist() == pytest.approx([penalty_slope(value, power) for value in theta.tolist()])
    outside = exploration_gradient(theta, ~everything, everything, 0.5, power)
    assert outside.tolist() == pytest.approx([penalty_slope(value, power) / 0.5 for value in theta.tolist()])
