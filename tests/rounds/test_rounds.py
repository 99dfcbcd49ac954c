"""Several trainings of one module: what each starts from, with which masks, and what is left afterwards."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from round_training import RANKINGS, SIZE, Training, active, model, of, survivors_differ, values
from torch import nn

from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.steps.hooks import watchers
from lightning_sparse.rounds import Round, lottery_densities, run_rounds
from lightning_sparse.testing.equality import differences
from lightning_sparse.testing.randomness import global_states
from lightning_sparse.topology import LayerView
from lightning_sparse.topology.layer import uses
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError

DENSITIES = [1.0, 0.7, 0.5, 0.31]


@pytest.mark.parametrize("attaches", [False, True])
@pytest.mark.parametrize("ranking", RANKINGS)
def test_after_three_rounds_survivors_have_their_values_of_before_training(ranking: str, attaches: bool) -> None:
    net, training = model(), Training(attaches=attaches)
    original = values(net)
    run_rounds(training, net, DENSITIES, recipe=RANKINGS[ranking])
    assert len(training.rounds) == 4
    for now, start in zip(training.rounds, training.starts, strict=True):
        assert survivors_differ(now, start, original) == []


@pytest.mark.parametrize("rewind", [1, 4, 6])
def test_after_three_rounds_survivors_have_their_values_of_a_step_of_the_first_training(rewind: int) -> None:
    training = Training()
    run_rounds(training, model(), DENSITIES, rewind)
    before_step = [training.starts[0], *training.at_step][rewind - 1]
    for now, start in zip(training.rounds[1:], training.starts[1:], strict=True):
        assert survivors_differ(now, start, training.at_step[rewind - 1]) == []
        # They are other values than before that step; a bias before a normalization has gradients of rounding only.
        differ = survivors_differ(now, start, before_step)
        assert {*before_step} - {*differ} <= {"0.bias"}


def test_where_training_continues_survivors_have_their_trained_values() -> None:
    net, training = model(), Training()
    run_rounds(training, net, DENSITIES, start="continued")
    for index in (1, 2, 3):
        assert survivors_differ(training.rounds[index], training.starts[index], training.ends[index - 1]) == []
        assert survivors_differ(training.rounds[index], training.starts[index], training.starts[0]) != []


@pytest.mark.parametrize("rewind", [0, 3])
def test_buffers_and_biases_are_rewound_too(rewind: int) -> None:
    training = Training()
    run_rounds(training, model(), [1.0, 0.5], rewind)
    then = training.at_step[rewind - 1] if rewind else training.starts[0]
    assert training.starts[1]["1.num_batches_tracked"] == rewind
    assert training.ends[0]["1.num_batches_tracked"] == 6
    for name in ("1.running_mean", "1.running_var", "1.weight", "3.bias"):
        assert torch.equal(training.starts[1][name], then[name])
        assert not torch.equal(training.ends[0][name], then[name])


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("start", ["rewound", "reinitialized", "continued"])
def test_every_round_has_exactly_its_budget_and_loses_weights_only(start: Any, ranking: str) -> None:
    training, densities = Training(steps=3), [0.97, 0.6, 0.6, 0.333, 0.05]
    rounds = run_rounds(training, model(), densities, start=start, recipe=RANKINGS[ranking], seed=1)
    assert [now.density for now in rounds] == densities
    for before, now in zip([None, *rounds], rounds, strict=False):
        assert now.active == sum(active(now.masks).values()) == round(now.density * SIZE)  # type: ignore[operator]  # a number
        assert before is None or not any((now.masks[name] & ~mask).any() for name, mask in before.masks.items())
        end = training.ends[now.index]
        assert sum(int(end[name].count_nonzero()) for name in now.masks) == now.active


def test_layers_keep_their_share_unless_they_are_ranked_together() -> None:
    def counts(ranking: str) -> dict[str, int]:
        return active(run_rounds(Training(), model(), [1.0, 0.5], recipe=RANKINGS[ranking])[-1].masks)

    assert counts("layer") == {"0.weight": 24, "3.weight": 28, "6.weight": 14}
    assert counts("network") != counts("layer")
    assert sum(counts("network").values()) == 66


def test_the_largest_trained_weights_stay() -> None:
    training = Training()
    rounds = run_rounds(training, model(), [1.0, 0.5])
    for name, mask in rounds[1].masks.items():
        trained = training.ends[0][name].abs()
        assert trained[mask].min() > trained[~mask].max()
        assert training.starts[0][name].abs()[mask].min() < training.starts[0][name].abs()[~mask].max()


def test_each_layer_may_have_a_density_of_its_own_and_layers_may_stay_dense() -> None:
    densities = [{"6": 0.9**n, "*": 0.8**n} for n in range(3)]
    rounds = run_rounds(Training(steps=2), model(), densities)
    assert [active(now.masks)["6.weight"] for now in rounds] == [28, 25, 23]
    assert [now.active - active(now.masks)["6.weight"] for now in rounds] == [104, 83, 67]
    dense = run_rounds(Training(steps=2), model(), [1.0, 0.6], dense="6", exclude="3")
    assert active(dense[1].masks) == {"0.weight": round(0.6 * 76) - 28, "6.weight": 28}


def test_recipes_and_densities_of_layers_may_differ() -> None:
    recipe: dict[str, str | Recipe] = {"6": "static", "*": RANKINGS["network"]}
    rounds = run_rounds(Training(steps=2), model(), [{"*": 1.0}, {"6": 1.0, "*": 0.5}], recipe=recipe)
    assert active(rounds[1].masks)["6.weight"] == 28
    assert rounds[1].active == 28 + 52


def test_the_module_ends_with_the_weights_of_the_last_round() -> None:
    net, training = model(), Training()
    rounds = run_rounds(training, net, DENSITIES)
    assert differences(values(net), training.ends[-1]) == []
    assert SparseNetwork(net, masks=rounds[-1].masks).density == round(0.31 * SIZE) / SIZE


def test_results_and_records_are_those_of_each_training() -> None:
    training = Training()
    rounds = run_rounds(training, model(), DENSITIES, 2)
    assert [now.index for now in rounds] == [0, 1, 2, 3]
    assert [now.first_step for now in rounds] == [now.first_step for now in training.rounds] == [0, 2, 2, 2]
    assert [type(now.result) for now in rounds] == [float] * 4
    assert [now.result for now in training.rounds] == [None] * 4
    assert repr(rounds[1]).startswith("Round(index=1, density=0.7, active=92, first_step=2, result=")


def test_inactive_weights_are_zero_in_every_forward_pass_whether_or_not_an_optimizer_is_attached() -> None:
    strays: list[int] = []

    def look(network: SparseNetwork, now: Round) -> None:
        mask = now.masks["0.weight"]

        def count(layer: nn.Module, _: object) -> None:
            strays.append(int(layer.weight[~mask].count_nonzero()))  # type: ignore[index]  # a tensor

        of(network.model, "0").register_forward_pre_hook(count)

    run_rounds(Training(before=look), model(), [0.5])
    run_rounds(Training(before=look, attaches=True), model(), [0.5])
    assert strays == [0] * 12


def test_the_same_seeds_give_the_same_masks_and_weights_and_others_do_not() -> None:
    def run(**options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        net = model()
        rounds = run_rounds(Training(), net, [0.9, 0.5], **options)
        return values(net), rounds[-1].masks

    for options in ({}, {"start": "reinitialized"}, {"masks": "random"}):
        assert differences(run(seed=1, **options), run(seed=1, **options)) == []
        assert differences(run(seed=1, **options), run(seed=2, **options)) != []


def test_without_a_seed_that_of_pytorch_counts() -> None:
    def last_masks() -> dict[str, Any]:
        return run_rounds(Training(steps=1), model(), [1.0, 0.5], masks="random")[-1].masks

    first = last_masks()
    assert differences(first, last_masks()) == []
    torch.manual_seed(3)
    assert differences(first, last_masks()) != []


@pytest.mark.parametrize(
    "options",
    [{}, {"rewind": 2}, {"start": "continued"}, {"start": "reinitialized"}, {"masks": "random"}, {"densities": [0.5]}],
    ids=repr,
)
def test_global_random_states_are_as_training_left_them(options: dict[str, Any]) -> None:
    left: list[dict[str, Any]] = [global_states()]

    def fit(network: SparseNetwork, now: Round) -> None:
        assert differences(global_states(), left[-1]) == []
        Training(steps=2)(network, now)
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002  # as users do
        left.append(global_states())

    run_rounds(fit, model(), **{"densities": [1.0, 0.5, 0.2], **options})
    assert differences(global_states(), left[-1]) == []
    assert differences(left[0], left[-1]) != []


def test_nothing_watches_optimizers_afterwards_even_after_an_error() -> None:
    others = watchers()

    def fails(network: SparseNetwork, now: Round) -> None:
        assert len(watchers()) > len(others)
        raise KeyboardInterrupt

    run_rounds(Training(attaches=True), model(), [1.0, 0.5], 2)
    assert [each for each in watchers() if each not in others] == []
    with pytest.raises(KeyboardInterrupt) as raised:
        run_rounds(fails, model(), [1.0, 0.5], 2)
    assert [each for each in watchers() if each not in others] == []
    assert raised.tb is not None  # which keeps alive what watched


def test_a_round_begins_without_gradients_and_in_the_modes_of_the_first_one() -> None:
    modes: list[tuple[bool, bool]] = []
    gradients: list[bool] = []

    def look(network: SparseNetwork, now: Round) -> None:
        net = network.model
        modes.append((net.training, of(net, "1").training))
        gradients.append(any(parameter.grad is not None for parameter in net.parameters()))

    def fit(network: SparseNetwork, now: Round) -> None:
        look(network, now)
        Training(steps=1)(network, now)
        network.model.eval()

    net = model()
    net[1].eval()
    run_rounds(fit, net, [1.0, 0.5, 0.2])
    assert modes == [(True, False)] * 3
    assert gradients == [False] * 3


def test_a_rule_may_decide_by_the_momentum_of_the_training_that_ended() -> None:
    seen: list[float] = []

    @uses("momentum")
    def least_momentum(layer: LayerView) -> torch.Tensor:
        seen.append(float(layer.require("momentum").abs().sum()))
        return layer.require("momentum").abs()

    kept: list[float] = []

    class Kept(Training):
        def __call__(self, network: SparseNetwork, now: Round) -> float:
            optimizer = torch.optim.SGD(network.model.parameters(), 0.1, momentum=0.9)
            self.optimizer = lambda net: optimizer
            loss = super().__call__(network, now)
            weight = of(network.model, "0").weight
            kept.append(float(optimizer.state[weight]["momentum_buffer"].abs().sum()))
            return loss

    run_rounds(Kept(), model(), [1.0, 0.5, 0.3], recipe=Recipe(least_momentum), include="0")
    assert seen == kept[:2]

    def stepless(network: SparseNetwork, now: Round) -> None:
        with torch.no_grad():
            of(network.model, "0").weight.mul_(2)

    with pytest.raises(InvalidStateError, match=r"momentum of layer '0\.weight'"):
        run_rounds(stepless, model(), [1.0, 0.5], recipe=Recipe(least_momentum))


@pytest.mark.filterwarnings("default")
def test_a_training_that_changes_nothing_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="got them unchanged in round 0"):
        run_rounds(lambda network, now: None, model(), [0.5])


def test_a_training_that_ignores_the_masks_is_an_error() -> None:
    def fit(network: SparseNetwork, now: Round) -> None:
        with torch.no_grad():
            for parameter in network.model.parameters():
                parameter.add_(0.1)

    with pytest.raises(
        InvalidStateError, match=r"round 0 that leaves masks as they are, and inactive .* got 66 others"
    ):
        run_rounds(fit, model(), [0.5, 0.3])
    assert len(run_rounds(fit, model(), [1.0])) == 1  # where none is inactive, none can be ignored


def test_a_training_that_changes_the_masks_is_an_error() -> None:
    def fit(network: SparseNetwork, now: Round) -> None:
        network.rewire("set", 0.3)

    with pytest.raises(InvalidStateError, match=r"round 0 that leaves masks as they are.* got other masks"):
        run_rounds(fit, model(), [0.5, 0.3])


def test_a_training_that_replaces_weights_is_an_error() -> None:
    def fit(network: SparseNetwork, now: Round) -> None:
        net = of(network.model, "0")
        net.weight = nn.Parameter(net.weight.detach().clone())

    with pytest.raises(InvalidValueError, match="replaced or removed"):
        run_rounds(fit, model(), [1.0, 0.5])


@pytest.mark.parametrize("start", ["rewound", "continued"])
def test_a_first_training_that_ends_before_the_step_to_rewind_to_is_an_error(start: Any) -> None:
    training = Training(steps=4)
    with pytest.raises(InvalidValueError, match="at least 5 optimizer steps in the first round, to rewind to; got 4"):
        run_rounds(training, model(), [1.0, 0.5], 5, start=start)
    assert len(training.rounds) == 1
    assert len(run_rounds(Training(steps=5), model(), [1.0, 0.5], 5, start=start)) == 2


def test_densities_of_lottery_tickets_remove_the_same_fraction_each_round_and_end_exactly() -> None:
    assert lottery_densities(0.64) == [1.0, 0.8, 0.64]
    assert lottery_densities(1.0) == [1.0]
    assert lottery_densities(0.1, 0.5) == [1.0, 0.5, 0.25, 0.125, 0.1]
    assert len(lottery_densities(0.05)) == 15


@pytest.mark.parametrize(
    ("final", "fraction"), [(0.0, 0.2), (1.1, 0.2), (0.5, 0.0), (0.5, 1.0), (0.5, "0.2"), (True, 0.2)]
)
def test_densities_out_of_range_are_refused(final: Any, fraction: Any) -> None:
    with pytest.raises(InvalidValueError, match="fraction"):
        lottery_densities(final, fraction)
