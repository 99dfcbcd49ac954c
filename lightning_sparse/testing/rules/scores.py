"""Properties of every weight score, whether it prunes or grows."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sparse.testing.contract import expect
from lightning_sparse.testing.evidence import DTYPES, layers
from lightning_sparse.testing.rules.every_rule import RULE_PROPERTIES
from lightning_sparse.topology.layer import LayerView, WeightScore


def scores_every_weight(rule: WeightScore) -> None:
    """Ask for a tensor of real numbers of the weight's shape, on its device."""
    for view in layers():
        scores = _scored(rule, view)
        expect(
            scores.shape == view.weight.shape and scores.device == view.weight.device and not scores.is_complex(),
            f"one real number per weight of the layer {view.name}, on {view.weight.device}",
            f"shape {tuple(scores.shape)}, {scores.dtype} on {scores.device}",
            "return a tensor of layer.weight's shape",
        )


def scores_are_numbers(rule: WeightScore) -> None:
    """Ask for scores without NaN where all evidence is finite: zeros, equal and large values included."""
    for view in layers():
        _check_numbers(rule, view)


def serves_every_floating_point_type(rule: WeightScore) -> None:
    """Ask for scores of weights in half, single and double precision."""
    for dtype in DTYPES:
        for view in layers(dtype):
            _check_numbers(rule, view)


def _check_numbers(rule: WeightScore, view: LayerView) -> None:
    scores = _scored(rule, view)
    expect(
        not bool(torch.isnan(scores).any()) and scores.shape == view.weight.shape,
        f"a number for every weight of the layer {view.name}",
        f"{int(torch.isnan(scores).sum())} NaN in shape {tuple(scores.shape)}",
        "guard divisions by zero, and compute in float() what overflows in half precision",
    )


def _scored(rule: WeightScore, view: LayerView) -> Tensor:
    scores: object = rule(view)
    expect(
        isinstance(scores, Tensor),
        f"a tensor for the layer {view.name}",
        repr(scores),
        "return layer.weight.abs(), say",
    )
    return torch.as_tensor(scores)


# Pruning and growth rules are checked for these.
SCORE_PROPERTIES = (scores_every_weight, scores_are_numbers, serves_every_floating_point_type, *RULE_PROPERTIES)
