"""What rules say of a layer, checked: claims and scores, measured on the device and fetched for all layers at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_sparse.topology.layer import (
    SIGNALS,
    LayerClaim,
    LayerCount,
    LayerView,
    NonFiniteError,
    WeightScore,
    unchanged,
)
from lightning_sparse.topology.plan import LayerEvidence
from lightning_sparse.topology.reduction import extremes, join_ranges, widest_float
from lightning_sparse.topology.sharding import Shard, ShardingError, reduce_each, total
from lightning_sparse.validation.errors import InvalidValueError

# A count is fetched as two digits, which are exact in single precision, too.
_LOW_BITS = 20
_LOW_DIGIT = (1 << _LOW_BITS) - 1


@dataclass(frozen=True)
class _Measured:
    """One layer's numbers, on its device; those of a part are reduced over all parts before they are fetched.

    Attributes:
        name: Name of the weight.
        size: Number of weights of all parts.
        shard: The layer's shard.
        counts: Number of active weights, and of those that a rule says are lost; int64, shape `(1,)` or `(2,)`.
        ranges: Minimum and maximum of the claims of all parts, and of the weights.
    """

    name: str
    size: int
    shard: Shard | None
    counts: Tensor
    ranges: Tensor


def measure_layers(
    layers: Sequence[Callable[[], LayerView]],
    redistribute: LayerClaim | None,
    unshardable: Sequence[object] = (),
    count: LayerCount | None = None,
) -> list[LayerEvidence]:
    """Return counts and claims of all layers; of a layer that is split over processes, the same in each of them.

    Args:
        layers: One function per masked weight that returns its view.
        redistribute: Redistribution rule; None measures no claims.
        unshardable: Rules of the update that don't work on parts of a weight.
        count: Rule that says how many weights a layer loses; None measures nothing.

    Raises:
        ShardingError: If there are such rules, and a layer that is split over processes.
        ValueError: If a claim is no finite number >= 0, or not the same on all parts, if a count is no integer or more
            than there are active weights, or two layers have one name.
        NonFiniteError: If a weight, or a signal that the claims depend on, is NaN or infinite (on any part).
    """
    measured = [_measure_layer(view(), redistribute, unshardable, count) for view in layers]
    names, shards = [layer.name for layer in measured], [layer.shard for layer in measured]
    if len(set(names)) < len(names):
        raise InvalidValueError(
            expected="layers of different names",
            got=names,
            cure="rename one of each pair",
        )
    counts, ranges = [layer.counts for layer in measured], [layer.ranges for layer in measured]
    if any(shard is not None for shard in shards):
        counts, ranges = reduce_each(total, counts, shards), join_ranges(ranges, shards)
    rows = [
        torch.cat([pairs, each >> _LOW_BITS, each & _LOW_DIGIT]) for each, pairs in zip(counts, ranges, strict=True)
    ]
    return [
        _read_evidence(layer, numbers, view, redistribute)
        for layer, numbers, view in zip(measured, fetch(rows), layers, strict=True)
    ]


def _measure_layer(
    layer: LayerView, redistribute: LayerClaim | None, unshardable: Sequence[object], count: LayerCount | None
) -> _Measured:
    if layer.shard is not None and unshardable:
        names = ", ".join(getattr(rule, "__qualname__", repr(rule)) for rule in unshardable)
        raise ShardingError(
            expected=f"rules that work on parts of a weight, for layer {layer.name!r} is split over processes",
            got=names,
            cure=(
                "declare a rule @uses(..., shardable=True) if it does, or train by a strategy that keeps "
                "whole weights in every process, such as DDP"
            ),
        )
    wide = widest_float(layer.weight.device)
    claim = _claim(redistribute, layer).to(wide)
    ranges = torch.cat([claim, claim, extremes(layer.weight).to(wide)])
    counts = torch.count_nonzero(layer.mask).reshape(1)
    if count is not None:
        counts = torch.cat([counts, _loss(count, layer)])
    return _Measured(layer.name, layer.size, layer.shard, counts, ranges)


def _claim(rule: LayerClaim | None, layer: LayerView) -> Tensor:
    with unchanged(layer, rule):
        claim = 0.0 if rule is None else rule(layer)
    if isinstance(claim, Tensor) and claim.numel() == 1 and not claim.is_complex():
        return claim.detach().reshape(1)
    if isinstance(claim, Tensor) or not isinstance(claim, Real):
        got = f"shape {tuple(claim.shape)}, {claim.dtype}" if isinstance(claim, Tensor) else repr(claim)[:80]
        raise InvalidValueError(
            expected=f"a finite claim >= 0 for layer {layer.name!r}",
            got=f"{got} from {rule!r}",
            cure="return one number",
        )
    # Filled in on the device: copying it there would synchronize.
    return torch.full((1,), float(claim), dtype=widest_float(layer.weight.device), device=layer.weight.device)


def _loss(rule: LayerCount, layer: LayerView) -> Tensor:
    with unchanged(layer, rule):
        loss = rule(layer)
    if isinstance(loss, Tensor):
        usable = loss.numel() == 1 and not loss.is_floating_point() and not loss.is_complex()
        loss = loss.detach().reshape(-1)
    else:
        usable = isinstance(loss, Integral) and not isinstance(loss, bool) and abs(loss) < 2**62
    if not usable:
        raise InvalidValueError(
            expected=f"a number of weights that layer {layer.name!r} loses, an integer",
            got=f"{repr(loss)[:80]} from {rule!r}",
            cure="return one, such as torch.count_nonzero of those that are to go",
        )
    if isinstance(loss, Tensor):
        return loss.long()
    return torch.full((1,), int(loss), dtype=torch.int64, device=layer.weight.device)


def _read_evidence(
    layer: _Measured, numbers: Sequence[float], view: Callable[[], LayerView], redistribute: LayerClaim | None
) -> LayerEvidence:
    claim, highest_claim, *weights = numbers[:4]
    if not all(map(isfinite, (claim, highest_claim, *weights))):
        check_signals(view())
    if claim != highest_claim and not isnan(claim):
        raise InvalidValueError(
            expected=f"the same claim on all parts of layer {layer.name!r}, which is split over processes",
            got="different ones",
            cure="claim by what LayerView.total returns, and by nothing else of the part",
        )
    if not isfinite(claim) or claim < 0:
        raise InvalidValueError(
            expected=f"a finite claim >= 0 for layer {layer.name!r}",
            got=f"{claim} from the rule",
            cure="mend the rule",
        )
    digits = [*map(int, numbers[4:])]
    middle = len(digits) // 2
    active, *losses = ((high << _LOW_BITS) + low for high, low in zip(digits[:middle], digits[middle:], strict=True))
    if losses and not 0 <= losses[0] <= active:
        raise InvalidValueError(
            expected=f"a loss between 0 and the {active} active weights of layer {layer.name!r}",
            got=f"{losses[0]} from the rule",
            cure="count active weights only",
        )
    return LayerEvidence(layer.name, layer.size, active, claim if redistribute else None, losses[0] if losses else None)


def fetch(rows: Sequence[Tensor]) -> list[list[float]]:
    """Copy equally long rows to the host, all at once."""
    if not rows:
        return []
    home = rows[0].device
    # Layers may be on several devices, and scores of several dtypes; none may be narrowed.
    numbers: list[list[float]] = torch.stack([row.to(home, widest_float(home)) for row in rows]).tolist()
    return numbers


def check_signals(layer: LayerView) -> None:
    """Raise if a weight or a signal of the layer is NaN or infinite; slow, called only where a result is.

    Raises:
        NonFiniteError: If any is, on any part of the layer.
    """
    known: dict[str, Tensor | None] = {kind: getattr(layer, kind) for kind in ("weight", *SIGNALS)}
    for kind, values in (known | dict(layer.others)).items():
        bad = torch.zeros(1, dtype=torch.int64, device=layer.weight.device)
        if values is not None:
            bad += torch.count_nonzero(~torch.isfinite(values))
        if layer.total(bad).item():
            raise NonFiniteError(
                expected=f"finite numbers in the {kind} of layer {layer.name!r}",
                got="NaN or infinity, so the topology was not updated",
                cure="find where training diverged (learning rate, loss scaling, gradient clipping)",
            )


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
