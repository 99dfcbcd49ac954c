"""Rules and recipes that each break a contract in one way."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sparse.topology import LayerView, Recipe, uses
from lightning_sparse.topology.growth import random
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.redistribution import mean_momentum


class Counting:
    """Answers differently each time."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, layer: LayerView) -> Tensor:
        self._calls += 1
        return torch.arange(layer.weight.numel()).view(layer.weight.shape).roll(self._calls) * 1.0


def one_score_for_all(layer: LayerView) -> Tensor:
    return layer.weight.abs().sum()


def divided_by_zero(layer: LayerView) -> Tensor:
    return layer.weight / layer.weight.abs().sum()


def overflowing(layer: LayerView) -> Tensor:
    scores = layer.weight.abs() * 8
    return scores - scores.amax()


def in_place(layer: LayerView) -> Tensor:
    return layer.weight.abs_()


def global_noise(layer: LayerView) -> Tensor:
    return torch.rand(layer.weight.shape)


def reseeding(layer: LayerView) -> Tensor:
    torch.manual_seed(5)
    return torch.rand(layer.weight.shape)


@uses()
def secretly_by_momentum(layer: LayerView) -> Tensor:
    return layer.weight.abs() if layer.momentum is None else layer.momentum.abs()


def by_storage_order(layer: LayerView) -> Tensor:
    return layer.weight.view(-1).abs().view(layer.weight.shape)


def activates_one_more(layer: LayerView) -> Tensor:
    layer.mask.view(-1)[layer.mask.view(-1).logical_not().nonzero()[:1]] = True
    return torch.rand(layer.weight.shape, generator=layer.generator)


def forgets_masks(layer: LayerView) -> Tensor:
    layer.mask.zero_()
    return layer.weight.abs()


@uses(shardable=True)
def relative_to_the_part(layer: LayerView) -> Tensor:
    return layer.weight.abs() - layer.weight.abs().float().sum().to(layer.weight.dtype)


SCORES = {
    "scores_every_weight": one_score_for_all,
    "scores_are_numbers": divided_by_zero,
    "serves_every_floating_point_type": overflowing,
    "is_deterministic": Counting(),
    "changes_none_of_its_inputs": in_place,
    "ignores_global_seeds": global_noise,
    "leaves_global_random_states_alone": reseeding,
    "needs_no_signals_but_those_it_declares": secretly_by_momentum,
    "serves_weights_in_any_memory_format": by_storage_order,
    "works_on_parts_if_it_says_so": relative_to_the_part,
}
PRUNING = {**SCORES, "keeps_the_budget_with_every_partner": forgets_masks}
GROWTH = {**SCORES, "keeps_the_budget_with_every_partner": activates_one_more}


class CountingClaims:
    """Claims more each time."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, layer: LayerView) -> float:
        self._calls += 1
        return float(self._calls)


def mean_of_nothing(layer: LayerView) -> Tensor:
    return layer.require("momentum")[layer.mask].abs().mean()


def narrow_sum(layer: LayerView) -> Tensor:
    return layer.require("momentum").abs().sum()


def halving(layer: LayerView) -> float:
    layer.weight.mul_(0.5)
    return 1.0


def global_claim(layer: LayerView) -> Tensor:
    return torch.rand(())


def reseeding_claim(layer: LayerView) -> Tensor:
    torch.manual_seed(5)
    return torch.rand(())


@uses()
def secret_claim(layer: LayerView) -> float:
    return 1.0 if layer.gradient is None else 2.0


def first_in_storage(layer: LayerView) -> float:
    return float(layer.weight.view(-1).abs().sum())


def claims_and_activates(layer: LayerView) -> float:
    activates_one_more(layer)
    return 1.0


@uses("momentum", shardable=True)
def claim_of_the_part(layer: LayerView) -> float:
    return float(layer.require("momentum").double().abs().sum())


REDISTRIBUTION = {
    "claims_one_number": mean_of_nothing,
    "serves_every_floating_point_type": narrow_sum,
    "is_deterministic": CountingClaims(),
    "changes_none_of_its_inputs": halving,
    "ignores_global_seeds": global_claim,
    "leaves_global_random_states_alone": reseeding_claim,
    "needs_no_signals_but_those_it_declares": secret_claim,
    "serves_weights_in_any_memory_format": first_in_storage,
    "works_on_parts_if_it_says_so": claim_of_the_part,
    "keeps_the_budget_with_every_partner": claims_and_activates,
}


def regrows_what_was_pruned(layer: LayerView) -> Tensor:
    return layer.mask.float()


def doubling(layer: LayerView) -> Tensor:
    return layer.weight.mul_(2).abs()


def leaves_infinity_behind(layer: LayerView) -> Tensor:
    layer.weight[~layer.mask] = torch.inf
    return torch.rand(layer.weight.shape, generator=layer.generator)


def reads_masks_off_weights(layer: LayerView) -> Tensor:
    layer.mask.logical_and_(layer.weight != 0)
    return torch.rand(layer.weight.shape, generator=layer.generator)


RECIPES = {
    "budget_is_exact_at_all_times": Recipe(magnitude, mean_momentum, activates_one_more),
    "a_prune_rate_of_zero_changes_nothing": Recipe(magnitude, halving, random),
    "a_prune_rate_above_zero_changes_something_unless_static": Recipe(
        magnitude, None, regrows_what_was_pruned, keep_regrown=True
    ),
    "survivors_keep_their_values": Recipe(doubling, None, random),
    "grown_weights_start_at_zero": Recipe(magnitude, None, leaves_infinity_behind),
    "inactive_weights_stay_zero": Recipe(magnitude, None, leaves_infinity_behind),
    "masks_are_not_read_off_the_weights": Recipe(magnitude, mean_momentum, reads_masks_off_weights),
    "continues_bit_for_bit_from_a_saved_state": Recipe(magnitude, None, Counting()),
    "the_seed_alone_decides": Recipe(magnitude, None, global_noise),
    "an_error_changes_nothing": Recipe(magnitude, halving, random),
}
