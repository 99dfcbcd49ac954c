"""The control experiments: the same masks with other weights, and other masks with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from round_training import RANKINGS, Training, active, model, of, survivors_differ, values
from torch import nn

from lightning_sparse.network import SparseNetwork
from lightning_sparse.rounds import Round, run_rounds
from lightning_sparse.rounds.module_values import ModuleValues
from lightning_sparse.rounds.reinitialize import redraw
from lightning_sparse.testing.equality import differences
from lightning_sparse.testing.randomness import global_states
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

DENSITIES = [1.0, 0.7, 0.4]


def tickets(ranking: str) -> tuple[list[Round], Training]:
    training = Training()
    return run_rounds(training, model(), DENSITIES, recipe=RANKINGS[ranking], seed=1), training


@pytest.mark.parametrize("ranking", RANKINGS)
def test_reinitialized_tickets_have_the_same_masks_and_other_weights(ranking: str) -> None:
    rounds, training = tickets(ranking)
    control = Training()
    found = run_rounds(control, model(), masks_of=rounds, start="reinitialized", seed=1)
    assert [now.density for now in found] == DENSITIES
    for index, now in enumerate(found):
        assert differences(now.masks, rounds[index].masks) == []
        assert now.active == rounds[index].active
    assert survivors_differ(found[0], control.starts[0], training.starts[0]) == []  # the first one is no control
    for index in (1, 2):
        different = survivors_differ(found[index], control.starts[index], training.starts[index])
        assert {*found[index].masks, "0.bias", "3.bias", "6.bias"} == {*different}
    assert survivors_differ(found[2], control.starts[2], control.starts[1]) != []  # drawn before each round


@pytest.mark.parametrize("rewind", [0, 3])
@pytest.mark.parametrize("ranking", RANKINGS)
def test_random_tickets_have_as_many_weights_in_each_layer_at_other_places_with_rewound_values(
    ranking: str, rewind: int
) -> None:
    rounds, _ = tickets(ranking)
    control = Training()
    found = run_rounds(control, model(), None, rewind, masks_of=rounds, masks="random", seed=1)
    then = control.at_step[rewind - 1] if rewind else control.starts[0]
    for index in (1, 2):
        ours, theirs = found[index].masks, rounds[index].masks
        assert active(ours) == active(theirs)
        assert all(not torch.equal(ours[name], theirs[name]) for name in ours)
        assert survivors_differ(found[index], control.starts[index], then) == []
    assert any((found[2].masks[name] & ~mask).any() for name, mask in found[1].masks.items())  # not nested


def test_masks_of_an_earlier_run_are_not_pruned_and_their_twin_is() -> None:
    rounds, training = tickets("layer")
    again = run_rounds(Training(steps=1), model(), masks_of=rounds, seed=1)
    assert [differences(now.masks, before.masks) for now, before in zip(again, rounds, strict=True)] == [[], [], []]
    pruned = run_rounds(Training(steps=1), model(), DENSITIES, seed=1)
    assert differences(pruned[2].masks, rounds[2].masks) != []
    whole = Training()
    run_rounds(whole, model(), masks_of=rounds, seed=1)
    assert differences(whole.ends, training.ends) == []


def test_a_part_of_an_earlier_run_trains_those_masks_only() -> None:
    rounds, training = tickets("network")
    control = Training()
    (only,) = run_rounds(control, model(), masks_of=rounds[2:], seed=1)
    assert (only.index, only.density, only.active) == (0, 0.4, rounds[2].active)
    assert differences(control.ends[0], training.ends[2]) == []


def test_without_earlier_rounds_the_random_masks_have_the_counts_of_the_recipe() -> None:
    rounds = run_rounds(Training(), model(), DENSITIES, masks="random", seed=1)
    pruned = run_rounds(Training(), model(), DENSITIES, seed=1)
    for now, before in zip(rounds, pruned, strict=True):
        assert active(now.masks) == active(before.masks)
    assert differences(rounds[1].masks, pruned[1].masks) != []
    assert differences(rounds[0].masks, pruned[0].masks) == []


def test_layers_that_stay_dense_do_so_with_random_masks_and_those_of_an_earlier_run() -> None:
    rounds = run_rounds(Training(steps=1), model(), [0.8, 0.6], dense="6", exclude="3", seed=1)
    for options in ({"masks": "random"}, {"start": "reinitialized"}):
        found = run_rounds(Training(steps=1), model(), masks_of=rounds, dense="6", exclude="3", seed=2, **options)  # type: ignore[arg-type]  # a choice
        assert [active(now.masks) for now in found] == [active(now.masks) for now in rounds]
        assert active(found[1].masks)["6.weight"] == 28


def test_frozen_parameters_and_buffers_keep_their_values_where_others_are_drawn() -> None:
    net, training = model(), Training()
    with torch.no_grad():
        of(net, "1").running_mean.fill_(0.25)
    of(net, "0").weight.requires_grad_(False)
    original = values(net)
    run_rounds(training, net, [1.0, 0.5], start="reinitialized")
    start = training.starts[1]
    assert torch.equal(start["0.weight"], original["0.weight"])
    assert torch.equal(start["1.running_mean"], original["1.running_mean"])
    assert not torch.equal(start["3.bias"], original["3.bias"])


def test_a_function_draws_all_weights_under_a_seed_of_the_round() -> None:
    def draw(net: nn.Module) -> None:
        for parameter in net.parameters():
            nn.init.normal_(parameter, 5.0)

    def starts(seed: int) -> Any:
        training = Training(steps=1)
        run_rounds(training, model(), DENSITIES, start="reinitialized", reinitialize=draw, seed=seed)
        return training.starts

    first = starts(1)
    assert first[1]["6.bias"].mean() > 3
    assert differences(first, starts(1)) == []
    assert differences(first[1], first[2]) != []
    assert differences(first[2], starts(2)[2]) != []


def test_drawing_weights_leaves_the_global_random_states_as_they_were() -> None:
    net = model()
    start, before = ModuleValues.of(net), global_states()
    redraw(net, start, 5, None)
    assert differences(global_states(), before) == []
    assert not torch.equal(of(net, "0").weight, start.parameters["0.weight"])
    with pytest.raises(ZeroDivisionError):
        redraw(net, start, 5, lambda _: torch.rand(3) / (1 // 0))
    assert differences(global_states(), before) == []


class Scaled(nn.Module):
    """A parameter of its own, which nothing draws."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))


class Shifted(nn.Module):
    """Another one, inside of which there is a second."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.inner = nn.Parameter(torch.zeros(2)), Scaled()


def test_modules_that_can_not_draw_their_parameters_are_named_before_anything_is_trained() -> None:
    net = nn.Sequential(nn.Linear(6, 4), Scaled(), Shifted())
    training = Training()
    with pytest.raises(InvalidValueError, match=r"none of 1 \(Scaled\), 2 \(Shifted\), 2\.inner \(Scaled\)"):
        run_rounds(training, net, [1.0, 0.5], start="reinitialized")
    assert not training.rounds
    for parameter in net[1:].parameters():
        parameter.requires_grad_(False)
    run_rounds(lambda network, now: _step(network), net, [1.0, 0.5], start="reinitialized")


def _step(network: SparseNetwork) -> None:
    optimizer = torch.optim.SGD(network.model.parameters(), 0.1)
    of(network.model, "0")(torch.ones(1, 6)).sum().backward()
    optimizer.step()


def test_a_function_that_replaces_parameters_is_an_error() -> None:
    def replace(net: nn.Module) -> None:
        of(net, "0").weight = nn.Parameter(torch.randn(8, 6))

    training = Training()
    with pytest.raises(InvalidValueError, match="replaced or removed"):
        run_rounds(training, model(), [1.0, 0.5], start="reinitialized", reinitialize=replace)
    assert len(training.rounds) == 1


def test_training_continues_with_masks_that_only_lose_weights() -> None:
    rounds, _ = tickets("layer")
    training = Training()
    run_rounds(training, model(), masks_of=rounds, start="continued")
    assert survivors_differ(training.rounds[2], training.starts[2], training.ends[1]) == []
    with pytest.raises(InvalidValueError, match="masks_of whose masks gain some"):
        run_rounds(training, model(), masks_of=rounds[::-1], start="continued")
    assert len(run_rounds(Training(steps=1), model(), masks_of=rounds[::-1])) == 3


@pytest.mark.parametrize(
    ("masks_of", "error", "message"),
    [
        ([], InvalidValueError, "at least one round"),
        ("rounds", InvalidTypeError, "a list of rounds"),
        ([0.5], InvalidTypeError, "a list of rounds"),
        (3, InvalidTypeError, "a list of rounds"),
        ([Round.of(0, 1.0, 0, {"x": torch.ones(2, 2, dtype=torch.bool)})], ValueError, "masks for all weights"),
        (
            [Round.of(0, 1.0, 0, {"0.weight": torch.ones(size, 2, dtype=torch.bool)}) for size in (1, 2)],
            InvalidValueError,
            "masks of several",
        ),
    ],
)
def test_rounds_that_have_no_masks_of_the_module_are_refused(masks_of: Any, error: Any, message: str) -> None:
    net, training = model(), Training()
    before = values(net)
    with pytest.raises(error, match=message):
        run_rounds(training, net, masks_of=masks_of)
    assert differences(values(net), before) == []
    assert not training.rounds
