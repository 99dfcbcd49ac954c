"""The density of each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from torch import nn

from lightning_sparse.network.budget import Density, check_density, initial_counts
from lightning_sparse.network.changes.layer_groups import Recipes, layer_groups
from lightning_sparse.selection.patterns import as_patterns
from lightning_sparse.selection.weights import find_weights
from lightning_sparse.topology.layer import MULTIPLICATIONS, SIGNALS
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.numbers import is_real


def lottery_densities(final: float, fraction: float = 0.2) -> list[float]:
    """Return densities of rounds that each remove the same fraction of the weights that are left.

    Args:
        final: Density of the last round, in (0, 1]. The last round but one may remove less, to end there exactly.
        fraction: Fraction in (0, 1) of the active weights that a round removes; 0.2 in Frankle & Carbin 2019.

    Raises:
        ValueError: If one of them is out of range.

    >>> lottery_densities(0.5)
    [1.0, 0.8, 0.64, 0.512, 0.5]
    """
    check_density(final)
    if not is_real(fraction, 0, 1) or fraction in (0, 1):
        raise InvalidValueError(
            expected="a fraction in (0, 1) of the active weights that each round removes",
            got=repr(fraction),
            cure="0.2, as Frankle & Carbin do",
        )
    # In decimals, as they are written: 0.8 * 0.8 is 0.64 and not a little more.
    kept, last = 1 - Fraction(repr(float(fraction))), Fraction(repr(float(final)))
    densities, density = [], Fraction(1)
    while density > last:
        densities.append(float(density))
        density *= kept
    return [*densities, float(final)]


def check_densities(densities: object) -> tuple[Density, ...]:
    """Return the densities of all rounds, checked as far as they can be without a model.

    Raises:
        ValueError: If there are none, or one is out of range or above that of the round before.
        TypeError: If they are no sequence.
    """
    if isinstance(densities, (str, Mapping)) or not isinstance(densities, Sequence):
        raise InvalidTypeError(
            expected="a sequence of densities, one per round",
            got=repr(densities)[:80],
            cure="lottery_densities(0.05) makes one",
        )
    if not densities:
        raise InvalidValueError(
            expected="at least one density, as there is a round for each",
            got="none",
            cure="lottery_densities(0.05) makes a list of them",
        )
    for index, density in enumerate(densities):
        parts = density if isinstance(density, Mapping) else {"": density}
        for pattern, value in parts.items():
            check_density(value, f" in round {index}" + (f" in the layers {pattern!r}" if pattern else ""))
    for index, (before, after) in enumerate(pairwise(densities), 1):
        if _rises(before, after):
            raise InvalidValueError(
                expected="densities that don't rise from round to round, as weights are only removed",
                got=f"{after!r} in round {index} after {before!r}",
                cure="sort them in descending order",
            )
    return tuple(dict(density) if isinstance(density, Mapping) else float(density) for density in densities)


def _rises(before: Density, after: Density) -> bool:
    """Tell whether a density is above another one, as far as that can be known without a model."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return any(pattern in before and value > before[pattern] for pattern, value in after.items())
    if isinstance(before, Mapping) or isinstance(after, Mapping):
        return False
    return float(after) > float(before)


def check_reachable(module: nn.Module, densities: Sequence[Density], recipe: Recipes, options: dict[str, Any]) -> None:
    """Raise unless the rounds of a module can have these densities by this recipe.

    Args:
        module: Module to train, before anything of it is changed.
        densities: One per round.
        recipe: Rules that say which weights are removed between rounds.
        options: Options of `SparseNetwork`.

    Raises:
        ValueError: If nothing can be masked, a density is out of reach, a pattern means nothing, or the recipe can't
            remove weights.
    """
    weights = find_weights(module, options.get("include"), options.get("exclude"))
    dense, least = as_patterns(options.get("dense")), options.get("min_active", 1)
    first = initial_counts(weights, densities[0], options.get("distribution", "uniform"), dense, least)
    sizes = {name: weight.parameter.numel() for name, weight in weights.items()}
    names = [name for name, weight in weights.items() if not weight.matches_any(dense)]
    for density in densities[1:]:
        if not isinstance(density, Mapping):
            initial_counts(weights, density, dense=dense, min_active=least)
        # A round removes some of what is active, which is all of it at first.
        for rules, members, _, budget in layer_groups(module, recipe, 0.0, density, names, sizes, sizes):
            if members and budget is not None:
                _check_removal(rules, budget, sum(first[name] for name in members))


def _check_removal(recipe: Recipe, budget: int, before: int) -> None:
    if (recipe.prune is None and budget != before) or (recipe.grow is None and recipe.count is not None):
        raise InvalidValueError(
            expected="a recipe that removes as many weights as the density of the next round says",
            got=f"{recipe!r}, which " + ("prunes none" if recipe.prune is None else "counts them itself"),
            cure="Recipe(prune=magnitude), say, which is the default",
        )
    known = (*SIGNALS, MULTIPLICATIONS)
    if unknown := sorted(recipe.signals.difference(known)):
        raise InvalidValueError(
            expected=f"a recipe that decides by weights, {' or '.join(known)}",
            got=f"{recipe!r}, which needs {', '.join(unknown)}",
            cure="choose another one",
        )
