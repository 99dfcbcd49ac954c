"""The weights that are active at first: random ones, the largest, or those that a rule scores highest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from lightning_sparse.topology.growth import random
from lightning_sparse.topology.layer import LayerView, WeightScore, is_shardable
from lightning_sparse.topology.measure import ScoreRange, check_scores, scores_of
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.reduction import extremes
from lightning_sparse.topology.registry import resolve
from lightning_sparse.topology.select import top_k_mask
from lightning_sparse.topology.sharding import ShardingError

INITIAL_MASKS: dict[str, WeightScore] = {"random": random, **PRUNING}


def as_initial_masks(choice: str | WeightScore) -> WeightScore:
    """Return the rule of the first masks by a name in `INITIAL_MASKS`, an import path, or as it is.

    Raises:
        ValueError: If the name is unknown or the path can't be imported.
        TypeError: If it is no function of one argument.
    """
    return resolve("rule for the first masks", choice, INITIAL_MASKS)


def first_masks(
    layers: Sequence[Callable[[], LayerView]],
    counts: Sequence[int],
    rule: WeightScore,
    store: Callable[[str, Tensor], None],
) -> None:
    """Store masks with the highest scores of each layer active; of equal ones, those with the lowest index.

    Args:
        layers: One function per weight that returns its view, in which all weights are active.
        counts: Number of active weights of each.
        rule: Weight score. It sees the weights, and neither momentum nor gradients.
        store: Called with the name of each layer and its mask.

    Raises:
        ValueError: If the scores can't be used.
        ShardingError: If a weight is split over processes, and the rule doesn't work on parts.
        MissingSignalError: If the rule needs momentum or gradients.
        NonFiniteError: If a score or a weight is NaN, or a weight infinite.
    """
    ranges = []
    for view, count in zip(layers, counts, strict=True):
        layer = view()
        if layer.shard is not None and not is_shardable(rule):
            raise ShardingError(
                expected=f"a rule for the first masks that works on parts of a weight, for {layer.name!r} is split",
                got=getattr(rule, "__qualname__", repr(rule)),
                cure="declare it @uses(shardable=True) if it does, or initial_masks='magnitude' or 'random'",
            )
        scores = scores_of(rule, layer)
        ranges.append((view, ScoreRange(layer.shard, extremes(scores))))
        store(layer.name, top_k_mask(scores, count, shard=layer.shard))
    check_scores(ranges)
