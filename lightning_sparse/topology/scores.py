"""Scores that rules give to the weights of a layer, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, isnan
from typing import NamedTuple

from torch import Tensor

from lightning_sparse.topology.layer import LayerView, NonFiniteError, WeightScore, unchanged
from lightning_sparse.topology.measure import check_signals, fetch
from lightning_sparse.topology.reduction import join_ranges
from lightning_sparse.topology.sharding import Shard
from lightning_sparse.validation.errors import InvalidValueError


class ScoreRange(NamedTuple):
    """Minimum and maximum of one layer's scores, on its device: fetching them would synchronize."""

    shard: Shard | None
    extremes: Tensor


def check_scores(ranges: Sequence[tuple[Callable[[], LayerView], ScoreRange]]) -> None:
    """Raise if scores are NaN, with the cause: everything is fetched at once, and searched only where it is not finite.

    Args:
        ranges: Each layer, as a function that returns its view, with the range of its scores.

    Raises:
        NonFiniteError: If they are, or if a weight or signal of a layer with infinite scores is.
    """
    shards, rows = [scores.shard for _, scores in ranges], [scores.extremes for _, scores in ranges]
    if any(shard is not None for shard in shards):
        rows = join_ranges(rows, shards)
    for (view, _), (lowest, highest) in zip(ranges, fetch(rows), strict=True):
        if not (isfinite(lowest) and isfinite(highest)):
            check_signals(view())
        if isnan(lowest) or isnan(highest):
            raise NonFiniteError(
                expected=f"scores without NaN for layer {view().name!r}",
                got="NaN from a rule",
                cure="mend the rule, which may divide zero by zero",
            )


def scores_of(rule: WeightScore, layer: LayerView) -> Tensor:
    """Return the scores of a rule, which must be one real number per weight.

    Raises:
        ValueError: If they are not, or if the rule changes the layer.
    """
    with unchanged(layer, rule):
        scores = rule(layer)
    weight = layer.weight
    usable = isinstance(scores, Tensor) and scores.shape == weight.shape and scores.device == weight.device
    if usable and not scores.is_complex():
        return scores.detach()
    raise InvalidValueError(
        expected=f"one score per weight of layer {layer.name!r}, shape {tuple(weight.shape)}",
        got=f"{_brief(scores)} from {rule!r}",
        cure="return real numbers, of the weight's shape and on its device",
    )


def _brief(value: object) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}, {value.dtype}, on {value.device}"
    return "None" if value is None else f"a {type(value).__name__}"
