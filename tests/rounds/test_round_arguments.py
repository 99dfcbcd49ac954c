"""Wrong arguments are refused where they come in, with the cure, and nothing is changed."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from round_training import RANKINGS, Training, model, values
from torch import nn

from lightning_sparse.network.steps.hooks import watchers
from lightning_sparse.rounds import run_rounds
from lightning_sparse.testing.equality import differences
from lightning_sparse.testing.randomness import global_states
from lightning_sparse.topology import LayerView
from lightning_sparse.topology.layer import uses
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError, UsageError


@uses("curvature")
def curvature(layer: LayerView) -> torch.Tensor:
    return layer.require("curvature")


@uses()
def one(layer: LayerView) -> int:
    return 1


WRONG: list[tuple[dict[str, Any], type[UsageError], str]] = [
    ({"densities": [0.5, 0.8]}, InvalidValueError, "don't rise from round to round"),
    ({"densities": [{"0": 0.5, "*": 1.0}, {"0": 0.6, "*": 1.0}]}, InvalidValueError, "don't rise"),
    ({"densities": []}, InvalidValueError, "at least one density"),
    ({"densities": None}, InvalidValueError, "at least one density"),
    ({"densities": [1.0, 0.0]}, InvalidValueError, r"density in \(0, 1\].* in round 1"),
    ({"densities": [1.5]}, InvalidValueError, r"density in \(0, 1\].* in round 0"),
    ({"densities": [1.0, True]}, InvalidValueError, r"density in \(0, 1\]"),
    ({"densities": [1.0, "0.5"]}, InvalidValueError, r"density in \(0, 1\]"),
    ({"densities": [1.0, {"0": 2.0}]}, InvalidValueError, "in round 1 in the layers '0'"),
    ({"densities": [1.0, {"nothing": 0.5}]}, InvalidValueError, "'nothing'"),
    ({"densities": [{"0": 1.0}]}, InvalidValueError, "a density for every layer"),
    ({"densities": 0.5}, InvalidTypeError, "a sequence of densities"),
    ({"densities": "0.5"}, InvalidTypeError, "a sequence of densities"),
    ({"densities": {"*": 0.5}}, InvalidTypeError, "a sequence of densities"),
    ({"densities": [1.0, 0.01]}, InvalidValueError, "a density from 0.0"),
    ({"densities": [1.0, 0.2], "dense": "3"}, InvalidValueError, "a density from 0.4"),
    ({"rewind": -1}, InvalidValueError, "an integer >= 0"),
    ({"rewind": 1.0}, InvalidValueError, "an integer >= 0"),
    ({"rewind": True}, InvalidValueError, "an integer >= 0"),
    ({"start": "rewind"}, InvalidValueError, "start from 'rewound', 'reinitialized', 'continued'"),
    ({"masks": "shuffled"}, InvalidValueError, "masks from 'pruned', 'random'"),
    ({"start": "reinitialized", "rewind": 2}, InvalidValueError, "either a step to rewind to or freshly drawn"),
    ({"start": "continued", "masks": "random"}, InvalidValueError, "pruned masks where training continues"),
    ({"reinitialize": print}, InvalidValueError, "start='reinitialized' where"),
    ({"reinitialize": 3, "start": "reinitialized"}, InvalidTypeError, "a function of the module"),
    ({"seed": 1.5}, InvalidValueError, "an integer as seed"),
    ({"recipe": "lottery"}, InvalidValueError, "'lottery'"),
    ({"recipe": 3}, InvalidTypeError, "a recipe"),
    ({"recipe": {"0": 3}}, InvalidTypeError, "a recipe"),
    ({"recipe": "static"}, InvalidValueError, "which prunes none"),
    ({"recipe": Recipe(magnitude, count=one)}, InvalidValueError, "which counts them itself"),
    ({"recipe": Recipe(curvature)}, InvalidValueError, "which needs curvature"),
    ({"recipe": {"0": RANKINGS["layer"], "*": "set"}}, InvalidValueError, "for the layers of each pattern"),
    ({"include": "nothing"}, InvalidValueError, "'nothing'"),
    ({"exclude": ["*"]}, InvalidValueError, "at least one weight to mask"),
    ({"min_active": -1}, InvalidValueError, "minimum number of active weights"),
    ({"state": {}}, InvalidTypeError, "unexpected keyword argument 'state'"),
    ({"density": 0.5}, InvalidTypeError, "unexpected keyword argument 'density'"),
    ({"colour": 1}, InvalidTypeError, "unexpected keyword argument 'colour'"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG, ids=repr)
def test_a_wrong_argument_is_refused_before_anything_happens(
    wrong: dict[str, Any], error: type[UsageError], message: str
) -> None:
    net, training = model(), Training()
    before, random, others = values(net), global_states(), watchers()
    with pytest.raises(error, match=message) as raised:
        run_rounds(training, net, **{"densities": [1.0, 0.5], **wrong})
    assert raised.value.cure
    assert not training.rounds
    assert differences(values(net), before) == []
    assert differences(global_states(), random) == []
    assert [each for each in watchers() if each not in others] == []


def test_the_same_arguments_without_the_wrong_one_are_accepted() -> None:
    assert len(run_rounds(Training(steps=1), model(), densities=[1.0, 0.5])) == 2
    assert len(run_rounds(Training(steps=1), model(), [0.5, 0.5], recipe="static")) == 2
    assert len(run_rounds(Training(steps=1), model(), (1.0, {"3": 0.5}))) == 2


def test_densities_and_masks_of_exclude_each_other() -> None:
    rounds = run_rounds(Training(steps=1), model(), [0.5])
    with pytest.raises(InvalidValueError, match="densities or masks_of"):
        run_rounds(Training(), model(), [1.0], masks_of=rounds)


def test_a_module_without_maskable_weights_is_refused() -> None:
    for module in (nn.Sequential(nn.BatchNorm1d(3)), nn.Sequential()):
        with pytest.raises(InvalidValueError, match="at least one weight to mask"):
            run_rounds(Training(), module, [1.0])
    for wrong in (None, {"0.weight": torch.ones(2, 2)}):
        with pytest.raises(InvalidTypeError, match="Module"):
            run_rounds(Training(), wrong, [1.0])  # type: ignore[arg-type]  # no module


def test_what_is_no_function_of_network_and_round_is_refused() -> None:
    for fit in (None, "fit", lambda network: None, lambda a, b, c: None):
        with pytest.raises(InvalidTypeError, match="a function of the network and the round"):
            run_rounds(fit, model(), [1.0])  # type: ignore[arg-type]  # no such function
    training = Training(steps=1)
    for usable in (lambda network, now, *, epochs=1: training(network, now), partial(Training.__call__, training)):
        run_rounds(usable, model(), [1.0])
    assert len(training.rounds) == 2
