"""Whether weights are freshly initialized, or sparse already: by how many of them are exactly zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_sparse.network.dtensor import local_part, shard_of, to_local
from lightning_sparse.selection.patterns import name_list
from lightning_sparse.topology.sharding import reduce_each, total
from lightning_sparse.validation.errors import InvalidValueError

# Fraction of exact zeros from which on a layer is not freshly initialized. Continuous distributions have none.
MOST_ZEROS = 0.01


class _Fit(NamedTuple):
    """How a mask fits a weight: active weights, zeros, zeros where it is active, and others where it is inactive."""

    active: int
    zeros: int
    zeros_inside: int
    others_outside: int


def is_sparse(zeros: int, weight: Tensor) -> bool:
    """Tell whether a layer with this many zeros is sparse; one of nothing but zeros starts from there."""
    allowed = MOST_ZEROS * weight.numel()
    if weight.dtype.itemsize < 4:
        # Uniform numbers of 8 random bits are zero in one of 256 cases; with a margin of five standard deviations.
        allowed += 5 * (weight.numel() / 256) ** 0.5
    return allowed < zeros < weight.numel()


def check_fresh(weights: Mapping[str, Tensor]) -> None:
    """Raise if weights that are to get random masks are sparse already: few would be active in both.

    All layers together wait for the device once. Where weights are sharded, every process must call this.

    Args:
        weights: Weights by name.

    Raises:
        ValueError: With the layer that has most zeros.
    """
    rows = [torch.count_nonzero(to_local(weight).detach()).reshape(1) for weight in weights.values()]
    counts = whole_counts(rows, weights.values())
    zeros = {name: weight.numel() - nonzero for (name, weight), (nonzero,) in zip(weights.items(), counts, strict=True)}
    sparse = [name for name, count in zeros.items() if is_sparse(count, weights[name])]
    if sparse:
        worst = max(sparse, key=lambda name: zeros[name] / weights[name].numel())
        size = weights[worst].numel()
        raise InvalidValueError(
            expected="dense weights to draw masks for, as they are initialized",
            got=(
                f"{zeros[worst]:,} exact zeros among the {size:,} of {worst!r}, {100 * zeros[worst] / size:.3g} % zeros"
                f"{'' if len(sparse) == 1 else f', and more in {len(sparse) - 1} other layers'}. Masks are never read "
                "off zeros, and random ones would leave few of the other weights"
            ),
            cure=(
                "fit with the callback that trained these weights or resume with ckpt_path; take its masks over, by "
                "masks_from= for a callback, masks= or from_checkpoint for a SparseNetwork; start from dense weights; "
                "or keep the largest ones, with initial_masks='magnitude'"
            ),
        )


def check_sparse_weights(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Raise if weights are sparse already by other masks than those given: few would be active in both.

    Masks that leave out some of the active weights are no such case. Where weights are sharded, every process must
    call this.

    Args:
        weights: Weights by name.
        masks: Masks of the whole weights by name.

    Raises:
        ValueError: With the name of such a weight.
    """
    for name, fit in _fits(weights, masks).items():
        is_other = fit.others_outside and fit.zeros_inside > MOST_ZEROS * fit.active
        if is_other and is_sparse(fit.zeros, weights[name]):
            raise InvalidValueError(
                expected=f"masks that the weights were trained with, or weights that are dense, in {name!r}",
                got=(
                    f"weights that are sparse by other masks: {fit.others_outside} would become zero, and "
                    f"{fit.zeros_inside} of the active ones are zero"
                ),
                cure="load the weights that belong to these masks before, or start from dense ones",
            )


def check_zero_outside(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Raise unless all weights are zero where masks say that they are inactive.

    Raises:
        ValueError: With the number of the others.
    """
    outside = {name: fit.others_outside for name, fit in _fits(weights, masks).items() if fit.others_outside}
    if outside:
        raise InvalidValueError(
            expected="the weights that were saved with the masks, which are zero where these are inactive",
            got=f"{sum(outside.values())} others in {name_list(list(outside))}",
            cure=(
                "load the model's weights before, or with weights=True; SparseNetwork(model, masks=path) applies the "
                "masks to weights of another origin"
            ),
        )


def _fits(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, _Fit]:
    rows = [_fit(to_local(weights[name]).detach(), local_part(mask, weights[name])) for name, mask in masks.items()]
    counts = whole_counts(rows, [weights[name] for name in masks])
    return {name: _Fit(*map(int, row)) for name, row in zip(masks, counts, strict=True)}


def _fit(weight: Tensor, mask: Tensor) -> Tensor:
    mask, nonzero = mask.to(weight.device), weight != 0
    return torch.stack([torch.count_nonzero(each) for each in (mask, ~nonzero, mask & ~nonzero, ~mask & nonzero)])


def whole_counts(rows: Iterable[Tensor], weights: Iterable[Tensor]) -> list[list[int]]:
    """Return counts of whole weights from those of their local parts, int64, equally many each, fetched at once."""
    reduced = reduce_each(total, list(rows), [shard_of(weight) for weight in weights])
    return torch.stack([row.to(reduced[0].device) for row in reduced]).tolist() if reduced else []
