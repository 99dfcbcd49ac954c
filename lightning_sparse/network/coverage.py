"""How much of all trainable weights is active and masked, and a warning where most of them stay dense."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from lightning_sparse.network.ranks import is_rank_zero
from lightning_sparse.selection.computed_kernels import COMPUTED, is_computed
from lightning_sparse.selection.obstacles import examined, inside_metrics
from lightning_sparse.selection.patterns import DEFAULT, Pattern, Patterns, as_patterns, name_list
from lightning_sparse.selection.weight import Weight

# Of the trainable weights: a warning where less is masked, and what is not worth a word in it.
_ENOUGH, _LITTLE = 0.5, 0.01
_MOST_NAMED = 4


class Coverage(NamedTuple):
    """Numbers of trainable weights, in parameters with two or more dimensions.

    Attributes:
        active: Active weights of the maskable parameters, and all weights of the others.
        size: All weights.
    """

    active: int
    size: int

    @property
    def density(self) -> float:
        """Active fraction, in [0, 1]."""
        return self.active / self.size


def count_others(model: nn.Module, maskable: Mapping[str, nn.Parameter]) -> int:
    """Return the number of trainable weights in parameters with two or more dimensions, but for the maskable ones.

    Embeddings count, tied weights once; frozen parameters and metrics don't.

    Args:
        model: Any module.
        maskable: Its maskable parameters by name.
    """
    metrics = inside_metrics(model)
    in_metrics = {id(each) for module in model.modules() if id(module) in metrics for each in module.parameters()}
    left_out = in_metrics | set(map(id, maskable.values()))
    return sum(
        parameter.numel()
        for parameter in model.parameters()
        if parameter.requires_grad and parameter.dim() > 1 and id(parameter) not in left_out
    )


@dataclass(frozen=True)
class _Dense:
    """Dense parameters that one pattern means, or that can't be masked for one reason."""

    weights: tuple[Weight, ...]
    pattern: str
    obstacle: str

    @property
    def size(self) -> int:
        return sum(weight.parameter.numel() for weight in self.weights)

    def __str__(self) -> str:
        names = [weight.name for weight in self.weights]
        listed = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        details = [] if self.pattern in ("", *names) else [self.pattern]
        return f"{listed} ({', '.join([*details, f'{self.size:,} weights'])}{self.obstacle and f': {self.obstacle}'})"


def warn_of_dense_weights(
    model: nn.Module, masked: Mapping[str, nn.Parameter], choice: Mapping[str, Patterns | None]
) -> None:
    """Warn, on rank zero, where masks cover less than half of the trainable weights with two or more dimensions.

    A wish is no surprise: layers that `exclude` or `dense` names don't count, and nothing is said of a choice by
    `include`.

    Args:
        model: Any module.
        masked: Its masked parameters by name.
        choice: Patterns that chose them: "include", "exclude" and "dense".
    """
    if choice["include"] is not None or not is_rank_zero():
        return
    wishes = (*as_patterns(choice["exclude"]), *as_patterns(choice["dense"]))
    dense = _dense_weights(model, masked, wishes)
    covered = sum(parameter.numel() for parameter in masked.values())
    size = covered + sum(weight.parameter.numel() for weight, _ in dense)
    if covered >= _ENOUGH * size:
        return
    groups = [group for group in _grouped(dense) if group.size >= _LITTLE * size]
    largest = [group for group in groups if not group.obstacle][:_MOST_NAMED]
    never = [group for group in groups if group.obstacle][:_MOST_NAMED]
    include = [DEFAULT, *(group.pattern for group in largest)]
    warnings.warn(
        f"Expected masks on most trainable weights of {type(model).__name__}; got them on {covered:,} of {size:,} "
        f"(those with two or more dimensions): the density is that of these {covered:,}, overall_density that of all."
        f"{_sentence('The largest ones left dense', largest)}{_sentence('Not maskable', never)} Cure: "
        f"{f'include={include!r} masks them, too; ' if largest else ''}include={DEFAULT!r} says that this is meant.",
        stacklevel=3,
    )


def _dense_weights(
    model: nn.Module, masked: Mapping[str, nn.Parameter], wishes: Sequence[Pattern]
) -> list[tuple[Weight, str]]:
    """Return the trainable weights without a mask that nobody asked for, each with why it can't have one, or ""."""
    metrics = inside_metrics(model)
    return [
        (weight, obstacle or _why_spared(weight))
        for weight, obstacle in examined(model)
        if weight.parameter.requires_grad and weight.parameter.dim() > 1 and weight.name not in masked
        if not weight.matches_any(wishes) and not any(id(place.module) in metrics for place in weight.places)
    ]


def _why_spared(weight: Weight) -> str:
    return COMPUTED if weight.matches(DEFAULT) and is_computed(weight) else ""


def warn_of_filled_zeros(weights: Mapping[str, Weight]) -> None:
    """Warn, on rank zero, of weights to mask whose layers compute with other kernels: they were asked for by name.

    Args:
        weights: The weights to mask by name.
    """
    names = [name for name, weight in weights.items() if is_computed(weight)]
    if names and is_rank_zero():
        warnings.warn(
            f"Expected layers to compute with the weights that are masked; got {name_list(names)}, whose layers "
            "compute with other kernels, in which zeros are filled: what is stored is sparse, what is used is dense. "
            "Cure: leave them out of include, unless this is meant.",
            stacklevel=3,
        )


def _grouped(dense: Sequence[tuple[Weight, str]]) -> list[_Dense]:
    """Return weights by the pattern that means them or the reason that they can't be masked, the largest first."""
    found: dict[tuple[str, str], list[Weight]] = {}
    for weight, obstacle in dense:
        kind = type(weight.module).__name__
        of_type = weight.name.rpartition(".")[0] and weight.places[0].matches(kind)
        pattern = "" if obstacle else kind if of_type else weight.name
        found.setdefault((pattern, obstacle), []).append(weight)
    groups = [
        _Dense(tuple(sorted(weights, key=lambda weight: -weight.parameter.numel())), pattern, obstacle)
        for (pattern, obstacle), weights in found.items()
    ]
    return sorted(groups, key=lambda group: -group.size)


def _sentence(subject: str, groups: Sequence[_Dense]) -> str:
    return f" {subject}: {'; '.join(map(str, groups))}." if groups else ""
