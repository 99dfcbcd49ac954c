"""What the counts of an update depend on, measured on the device and fetched for all layers at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real

import torch
from torch import Tensor

from lightning_sparse.topology.layer import LayerClaim, LayerView, NonFiniteError, unchanged
from lightning_sparse.topology.plan import LayerEvidence
from lightning_sparse.topology.reduction import extremes, extremes_of, flaws, widest_float
from lightning_sparse.topology.sharding import Shard, ShardingError, total_each
from lightning_sparse.validation.errors import InvalidValueError

_SIGNALS = ("weight", "momentum", "gradient")
# Of the low digit of a count: two digits are exact in single precision too.
_LOW = 20


@dataclass(frozen=True)
class _Measured:
    """One layer's numbers, on its device: a row to fetch, or one that is to be added up over the parts before."""

    name: str
    size: int
    shard: Shard | None
    row: Tensor


def measure_layers(
    layers: Sequence[LayerView], redistribute: LayerClaim | None, unshardable: Sequence[object] = ()
) -> list[LayerEvidence]:
    """Return counts and claims of all layers; of a layer that is split over processes, the same in each of them.

    Args:
        layers: One view per masked weight.
        redistribute: The rule of the claims; None measures none.
        unshardable: Rules of the update that don't work on parts of a weight.

    Raises:
        ShardingError: If there are such rules, and a layer that is split over processes.
        ValueError: If a claim is no finite number >= 0, or not the same on all parts, or two layers have one name.
        NonFiniteError: If a weight, or a signal that the claims depend on, is NaN or infinite (on any part).
    """
    measured = [_measure_layer(layers[index], redistribute, unshardable) for index in range(len(layers))]
    if len({each.name for each in measured}) < len(measured):
        names = [each.name for each in measured]
        raise InvalidValueError(
            expected="layers of different names",
            got=names,
            cure="rename one of each pair",
        )
    rows = total_each([each.row for each in measured], [each.shard for each in measured])
    rows = [row if each.shard is None else _row_of_sums(row) for each, row in zip(measured, rows, strict=True)]
    evidence = []
    for index, (high, low, claim, lowest, highest, spread) in enumerate(_fetch(rows)):
        if spread or not all(map(isfinite, (claim, lowest, highest))):
            check_signals(layers[index])
        name = measured[index].name
        _check_claim(name, claim, bool(spread))
        active = (int(high) << _LOW) + int(low)
        evidence.append(LayerEvidence(name, measured[index].size, active, claim if redistribute else None))
    return evidence


def _check_claim(name: str, claim: float, differs: bool) -> None:
    if differs:
        raise InvalidValueError(
            expected=f"the same claim on all parts of layer {name!r}, which is split over processes",
            got="different ones",
            cure="claim by what LayerView.total returns, and by nothing else of the part",
        )
    if not isfinite(claim) or claim < 0:
        raise InvalidValueError(
            expected=f"a finite claim >= 0 for layer {name!r}",
            got=f"{claim} from the rule",
            cure="mend the rule",
        )


def _check_rules(layer: LayerView, unshardable: Sequence[object]) -> None:
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


def _measure_layer(layer: LayerView, redistribute: LayerClaim | None, unshardable: Sequence[object]) -> _Measured:
    _check_rules(layer, unshardable)
    wide = widest_float(layer.weight.device)
    claim = _claim(redistribute, layer).to(wide)
    count = torch.count_nonzero(layer.mask)
    if layer.shard is None:
        row = torch.cat([_digits(count).to(wide), claim, extremes(layer.weight).to(wide), torch.zeros_like(claim)])
    else:
        row = torch.cat([count.reshape(1), flaws(layer.weight), _claim_to_add(claim)])
    return _Measured(layer.name, layer.size, layer.shard, row)


def _digits(count: Tensor) -> Tensor:
    return torch.stack([count >> _LOW, count & ((1 << _LOW) - 1)])


def _claim_to_add(claim: Tensor) -> Tensor:
    """Return integers, shape `(9,)`, whose sums over the parts tell the claim and whether all parts have the same.

    They are 1, the claim's bits as four digits, and the squares of those: all digits are equal if, and only if, the
    number of parts times the sum of squares is the square of the sum.
    """
    # One kind of zero and of NaN.
    bits = torch.where(claim.isnan(), torch.nan, claim + 0.0).view(torch.int64)
    digits = (bits >> _places(claim.device)) & 0xFFFF
    return torch.cat([torch.ones_like(bits), digits, digits**2])


def _places(device: torch.device) -> Tensor:
    return torch.arange(0, 64, 16, device=device)


def _row_of_sums(sums: Tensor) -> Tensor:
    """Return the row that an unsplit layer has, from the sums over all parts."""
    count, problems, parts, digits, squares = sums.split_with_sizes([1, 2, 1, 4, 4])
    spread = (parts * squares != digits**2).any().reshape(1)
    claim = ((digits // parts) << _places(sums.device)).sum().reshape(1).view(torch.float64)
    return torch.cat([_digits(count[0]).double(), claim, extremes_of(problems), spread.double()])


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


@dataclass(frozen=True)
class Extremes:
    """The extremes of one layer's scores, on its device: fetching them would synchronize.

    Attributes:
        shard: Of the layer.
        row: Minimum and maximum; of a part, its `flaws`.
    """

    shard: Shard | None
    row: Tensor

    @classmethod
    def from_scores(cls, scores: Tensor, shard: Shard | None) -> Extremes:
        """Take them."""
        return cls(shard, extremes(scores) if shard is None else flaws(scores))


def fetch_extremes(ranges: Sequence[Extremes]) -> list[list[float]]:
    """Return minima and maxima; of a layer in parts, numbers that are NaN or infinite if those of any part are."""
    rows = total_each([each.row for each in ranges], [each.shard for each in ranges])
    return _fetch([row if each.shard is None else extremes_of(row) for each, row in zip(ranges, rows, strict=True)])


def _fetch(rows: Iterable[Tensor]) -> list[list[float]]:
    """Copy equally long rows to the host, all at once."""
    stacked = list(rows)
    if not stacked:
        return []
    home = stacked[0].device
    # Layers may be on several devices, and scores of several dtypes; none may be narrowed.
    values: list[list[float]] = torch.stack([row.to(home, widest_float(home)) for row in stacked]).tolist()
    return values


def check_signals(layer: LayerView) -> None:
    """Raise if a weight or a signal of the layer is NaN or infinite; slow, called only where a result is.

    Raises:
        NonFiniteError: If any is, on any part of the layer.
    """
    for kind in _SIGNALS:
        values: Tensor | None = getattr(layer, kind)
        bad = torch.zeros(1, dtype=torch.int64, device=layer.weight.device)
        if values is not None:
            bad += torch.count_nonzero(~torch.isfinite(values))
        if layer.total(bad).item():
            raise NonFiniteError(
                expected=f"finite numbers in the {kind} of layer {layer.name!r}",
                got="NaN or infinity, so the topology was not updated",
                cure="find where training diverged (learning rate, loss scaling, gradient clipping)",
            )
