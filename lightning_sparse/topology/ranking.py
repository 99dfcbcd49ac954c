"""The highest scores of a whole network: how many of them each layer has, exactly, without joining the layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_sparse.topology.layer import LayerView, WeightScore
from lightning_sparse.topology.measure import ScoreRange, check_scores, scores_of
from lightning_sparse.topology.radix import DIGIT, ordered_keys
from lightning_sparse.topology.reduction import extremes
from lightning_sparse.topology.sharding import Shard, reduce_each, total
from lightning_sparse.validation.errors import InvalidValueError

View = Callable[[], LayerView]


@dataclass(frozen=True)
class RankedLayer:
    """A layer whose scores are compared with those of all others.

    Attributes:
        view: Function that returns its view.
        rule: Weight score.
        inactive: Whether its inactive weights are compared, and not its active ones.
        seed: Seed of the generator that the rule draws from, so that it gives the same scores each time.
    """

    view: View
    rule: WeightScore
    inactive: bool
    seed: int

    def scored(self) -> tuple[LayerView, Tensor]:
        """Return the view, with that generator, and the scores, shape of the weight."""
        layer = reseeded(self.view(), self.seed)
        return layer, scores_of(self.rule, layer)


def reseeded(layer: LayerView, seed: int) -> LayerView:
    """Return a view whose rules draw from a generator of its own."""
    return replace(layer, generator=torch.Generator().manual_seed(seed))


def draw_seeds(layers: Sequence[View]) -> list[int]:
    """Draw a seed for each layer from the generator of the first one, which all processes have in the same state."""
    if not layers:
        return []
    generator = layers[0]().generator
    seeds: list[int] = torch.randint(2**62, (len(layers),), generator=generator, dtype=torch.int64).tolist()
    return seeds


def rank_network(layers: Sequence[RankedLayer], keep: int, least: Sequence[int]) -> list[int]:
    """Return how many of the network's `keep` highest scores each layer has.

    Of equal scores, those of the first layer come first. A layer that has fewer than its minimum gets that, at the cost
    of the others' lowest scores, as if its highest scores were infinite. The result is the same however weights are
    split over processes, and on every device.

    Scores are counted digit by digit, and computed again for each (three times for 32 bits), so that those of one layer
    are in memory at a time, whatever the size of the network.

    Args:
        layers: The layers, with their rules.
        keep: Number of scores.
        least: Minimum of each layer; it has as many scores.

    Raises:
        ValueError: If there are fewer scores than that, if the minimums are more, or if a rule returns something
            unusable.
        NonFiniteError: If scores are NaN, or a weight or signal is where they are not finite.
    """
    if keep < sum(least):
        raise InvalidValueError(
            expected=f"at least {sum(least)} scores, the minimums of all layers",
            got=keep,
            cure="keep more, or lower min_active",
        )
    if not keep:
        return [0] * len(layers)
    dtype = _common_dtype(layers)
    counts: dict[int, int] = {}
    short: dict[int, int] = {}
    while True:
        free = [index for index in range(len(layers)) if index not in short]
        found = _count_highest([layers[index] for index in free], keep - sum(short.values()), dtype)
        counts = short | dict(zip(free, found, strict=True))
        # Once these have their minimum, the others have fewer scores to share, so that more of them may fall short.
        more = {index: least[index] for index in free if counts[index] < least[index]}
        if not more:
            return [counts[index] for index in range(len(layers))]
        short |= more


def _common_dtype(layers: Sequence[RankedLayer]) -> torch.dtype:
    """Return a dtype in which the scores of all layers can be compared; raise if any are NaN."""
    dtypes, ranges = set(), []
    for each in layers:
        layer, scores = each.scored()
        dtypes.add(scores.dtype)
        ranges.append((each.view, ScoreRange(layer.shard, extremes(scores))))
    check_scores(ranges)
    if not any(dtype.is_floating_point for dtype in dtypes):
        return torch.int64
    return torch.float32 if all(dtype.is_floating_point and dtype.itemsize <= 4 for dtype in dtypes) else torch.float64


def _count_highest(layers: Sequence[RankedLayer], keep: int, dtype: torch.dtype) -> list[int]:
    """Return how many of the `keep` highest scores each layer has, without minimums."""
    bits = 8 * dtype.itemsize
    lowest, missing, found = -(1 << (bits - 1)), keep, [0] * len(layers)
    while True:
        shift = max(bits - DIGIT, 0)
        counts = _count_digits(layers, dtype, lowest, bits, shift)
        of_all = [sum(column) for column in zip(*counts, strict=True)]
        if sum(of_all) < missing:
            raise InvalidValueError(
                expected=f"at most the {sum(of_all)} scores of all layers",
                got=missing,
                cure="keep fewer",
            )
        digit = len(of_all) - 1
        while of_all[digit] < missing:
            missing -= of_all[digit]
            found = [each + row[digit] for each, row in zip(found, counts, strict=True)]
            digit -= 1
        lowest += digit << shift
        if shift == 0 or of_all[digit] == missing:
            break
        bits = shift
    for index, row in enumerate(counts):  # all that is left, or equal scores
        taken = min(row[digit], missing)
        found[index] += taken
        missing -= taken
    return found


def _count_digits(
    layers: Sequence[RankedLayer], dtype: torch.dtype, lowest: int, bits: int, shift: int
) -> list[list[int]]:
    """Return how often each digit comes in each layer, among keys in `[lowest, lowest + 2**bits)`; fetched at once."""
    rows: list[Tensor] = []
    shards: list[Shard | None] = []
    for each in layers:
        layer, scores = each.scored()
        keys, width = ordered_keys(scores.to(dtype).reshape(-1))
        keys = keys[(~layer.mask if each.inactive else layer.mask).reshape(-1)]
        if bits < width:
            keys = keys[(keys >> bits) == (lowest >> bits)]
        rows.append(torch.bincount((keys >> shift) - (lowest >> shift), minlength=1 << min(bits, DIGIT)))
        shards.append(layer.shard)
    home = rows[0].device
    counts: list[list[int]] = torch.stack([row.to(home) for row in reduce_each(total, rows, shards)]).tolist()
    return counts
