"""Groups of layers that one topology update treats in ways of their own: another recipe, another density."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_sparse.network.budget import Density, check_density
from lightning_sparse.selection.obstacles import examined
from lightning_sparse.selection.patterns import Pattern, as_patterns
from lightning_sparse.selection.weights import matching
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.recipes import as_recipe
from lightning_sparse.topology.rewire import Rewiring
from lightning_sparse.validation.errors import InvalidValueError

# One recipe for all layers, or one for those of each pattern.
Recipes = str | Recipe | Mapping[str, str | Recipe]


# Layers that are updated together: their recipe, the names of the weights to update, the prune rate, and the number of
# their active weights afterwards; None leaves that to the recipe.
LayerGroup = tuple[Recipe, list[str], float, int | None]


def layer_groups(
    model: nn.Module,
    recipe: Recipes,
    prune_rate: float,
    density: Density | None,
    names: Sequence[str],
    sizes: Mapping[str, int],
    active: Mapping[str, int],
) -> list[LayerGroup]:
    """Return the groups of an update, in the order of the patterns; of those that a layer matches the first counts.

    A layer that no pattern of the recipes matches is left as it is, one that none of the densities matches keeps what
    its recipe gives it.

    Args:
        model: The model, whose modules patterns may name.
        recipe: One recipe, or one per pattern.
        prune_rate: Fraction of the active weights that recipes prune. Of several recipes, those that grow nothing and
            have a density need none.
        density: Fraction in (0, 1] of all maskable weights, of those of each pattern, or None.
        names: Names of the weights that can be updated.
        sizes: Numbers of weights by name, of all maskable ones.
        active: Numbers of active ones.

    Raises:
        ValueError: If a pattern matches nothing, or a density is out of range.
    """
    recipe_of = _by_pattern(model, recipe, sizes)
    density_of = _by_pattern(model, density, sizes)
    groups: dict[tuple[Any, Any], list[str]] = {}
    for name in sizes:
        if name in recipe_of:
            groups.setdefault((recipe_of[name], density_of.get(name)), []).append(name)
    if density is not None and not isinstance(density, Mapping) and len(groups) > 1:
        raise InvalidValueError(
            expected="a density for the layers of each pattern, as each recipe has its own",
            got=f"{density!r} for all of them",
            cure="give a mapping of patterns to densities",
        )
    found: list[LayerGroup] = []
    for (recipe_key, density_key), members in groups.items():
        rules = recipe[recipe_key] if isinstance(recipe, Mapping) else recipe
        wanted = density.get(density_key) if isinstance(density, Mapping) else density
        chosen = [name for name in members if name in names]
        budget = None if wanted is None else budget_of(wanted, members, chosen, sizes, active)
        rules = as_recipe(rules)
        has_rate = rules.grow is not None or budget is None or not isinstance(recipe, Mapping)
        found.append((rules, chosen, prune_rate if has_rate else 0.0, budget))
    return found


def _by_pattern(model: nn.Module, choices: object, sizes: Mapping[str, int]) -> dict[str, Pattern]:
    """Return the first pattern that each weight matches, by its name; of what isn't chosen by patterns, "" for all."""
    if not isinstance(choices, Mapping):
        return dict.fromkeys(sizes, "")
    weights = {weight.name: weight for weight, _ in examined(model) if weight.name in sizes}
    found: dict[str, Pattern] = {}
    for pattern in as_patterns(tuple(choices)):
        found = dict.fromkeys(matching(weights, pattern, model), pattern) | found
    return found


def group_densities(
    model: nn.Module, patterns: object, sizes: Mapping[str, int], active: Mapping[str, int]
) -> dict[str, float]:
    """Return the active fraction of the weights that match each pattern first; of all, under "", without patterns.

    Args:
        model: The model.
        patterns: Mapping whose keys are the patterns, or anything else.
        sizes: Numbers of weights by name.
        active: Numbers of active ones.
    """
    members: dict[Any, list[str]] = {}
    for name, pattern in _by_pattern(model, patterns, sizes).items():
        members.setdefault(pattern, []).append(name)
    return {
        pattern: sum(active[name] for name in names) / sum(sizes[name] for name in names)
        for pattern, names in members.items()
    }


def feasible_density(
    model: nn.Module,
    density: Density,
    names: Sequence[str],
    sizes: Mapping[str, int],
    active: Mapping[str, int],
    min_active: int,
) -> Density:
    """Return the density that can be reached and is nearest to one that is asked for, of all layers or of each group.

    Args:
        model: The model.
        density: A density, or one per pattern.
        names: Names of the weights whose numbers can change; frozen ones and those that stay dense keep theirs.
        sizes: Numbers of weights by name.
        active: Numbers of active ones.
        min_active: Minimum number of active weights per layer.
    """
    patterns = _by_pattern(model, density, sizes)
    found: dict[str, float] = {}
    for pattern, wanted in density.items() if isinstance(density, Mapping) else [("", density)]:
        members = [name for name in sizes if patterns.get(name) == pattern]
        size = sum(sizes[name] for name in members)
        least = sum(min(min_active, active[name]) if name in names else active[name] for name in members)
        most = sum(sizes[name] if name in names else active[name] for name in members)
        found[pattern] = min(max(round(wanted * size), least), most) / size if members else wanted
    return found if isinstance(density, Mapping) else found[""]


def has_density(model: nn.Module, density: Density, sizes: Mapping[str, int], active: Mapping[str, int]) -> bool:
    """Tell whether the numbers of active weights are those of a density, but for rounding in each layer."""
    patterns = _by_pattern(model, density, sizes)
    for pattern, wanted in density.items() if isinstance(density, Mapping) else [("", density)]:
        members = [name for name in sizes if patterns.get(name) == pattern]
        missing = wanted * sum(sizes[name] for name in members) - sum(active[name] for name in members)
        if abs(missing) > (len(members) if isinstance(density, Mapping) else 0.5 + 1e-9):
            return False
    return True


def budget_of(
    density: float, members: Sequence[str], names: Sequence[str], sizes: Mapping[str, int], active: Mapping[str, int]
) -> int:
    """Return how many of some weights are to be active, so that a group that they belong to has a density.

    Args:
        density: Fraction in (0, 1] of the weights of all members.
        members: Names of the group.
        names: Names of those whose number can change.
        sizes: Numbers of weights by name.
        active: Numbers of active ones.

    Raises:
        ValueError: If the density is out of range, or one that those names can't reach.
    """
    check_density(density)
    size = sum(sizes[name] for name in members)
    held = sum(active[name] for name in members if name not in names)
    least, most = held + bool(names), held + sum(sizes[name] for name in names)
    total = round(density * size)
    if len(names) < len(members) and not least <= total <= most:
        raise InvalidValueError(
            expected=f"a density from {least / size:.4g} to {most / size:.4g} of all {len(members)} layers, as "
            f"{len(members) - len(names)} of them, with {held:,} active weights, stay as they are (frozen, "
            "dense, or not among the names)",
            got=density,
            cure="name all layers that are to change; a density counts all maskable weights, or all of its pattern",
        )
    return total - held


def joined(rewirings: Sequence[Rewiring[Tensor]], order: Sequence[str]) -> Rewiring[Tensor]:
    """Return the updates of several groups as one, with the changes in a given order of names."""
    changes = {change.name: change for rewiring in rewirings for change in rewiring.changes}
    return Rewiring(
        survivors={name: mask for rewiring in rewirings for name, mask in rewiring.survivors.items()},
        masks={name: mask for rewiring in rewirings for name, mask in rewiring.masks.items()},
        changes=tuple(changes[name] for name in order if name in changes),
    )
