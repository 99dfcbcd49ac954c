"""The rules that the updates of a run follow: one recipe, or one for each group of layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from lightning_sparse.methods.base import Method
from lightning_sparse.methods.density_plan import DensityPlan, ScheduledDensity
from lightning_sparse.methods.density_schedule import DensitySchedule
from lightning_sparse.methods.registry import as_recipes
from lightning_sparse.methods.timetable import Due
from lightning_sparse.methods.unreached import unreached_density
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.network.changes.layer_groups import Recipes
from lightning_sparse.topology.layer import MULTIPLICATIONS, SIGNALS
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.validation.errors import InvalidValueError


class Rules:
    """The recipes of a run, and the densities that they are to reach.

    Args:
        recipe: One recipe, or a mapping of layer patterns to recipes.
        density: A density, a schedule, or a mapping of layer patterns to these; None for the default.

    Attributes:
        recipe: The recipe, or those of each pattern.
        densities: Densities that change; None if none does.
        density: Density of the masks that a run begins with.
        signals: Names of the signals that rules may ask for.
        unshardable: Rules that don't work on parts of weights that are split over processes.
        moves: Whether updates move weights, or remove some without a density that says how many.

    Raises:
        ValueError: If a name is unknown, a rule asks for a signal that no network has, or a recipe that grows nothing
            comes without an end.
    """

    def __init__(self, recipe: Recipes, density: ScheduledDensity | None) -> None:
        self.recipe = as_recipes(recipe)
        recipes = [*self.recipe.values()] if isinstance(self.recipe, dict) else [self.recipe]
        self.signals = frozenset().union(*(each.signals for each in recipes))
        self.unshardable: tuple[Any, ...] = tuple(rule for each in recipes for rule in each.unshardable)
        self.moves = any(
            each.prune is not None and (each.grow is not None or each.count is not None) for each in recipes
        )
        scheduled = is_scheduled(density)
        self.densities = DensityPlan(density) if scheduled and density is not None else None
        self.density = as_constant(density) if self.densities is None else self.densities.initial
        known = (*SIGNALS, MULTIPLICATIONS)
        if unknown := self.signals.difference(known):
            raise InvalidValueError(
                expected=f"rules that decide by {', '.join(known)}, which a network knows",
                got=f"some that ask for {', '.join(sorted(unknown))}",
                cure="write a Method that brings it (see lightning_sparse.methods)",
            )
        self._check(recipes, density, scheduled)

    def next_density(self, network: SparseNetwork, due: Due) -> Density | None:
        """Return the density that an update is to reach, of all layers or of each group; None if the number stays.

        It is none that goes back from where the network is, nor one that frozen layers keep out of reach.

        Args:
            network: The network.
            due: Update that is due.
        """
        if self.densities is None or due.density is None:
            return None
        self.densities.is_settled = True
        density = self.densities.onward(due.density, network.group_densities(due.density))
        density = network.feasible_density(density)
        return None if not due.moves and network.has_density(density) else density

    def unreached(self, network: SparseNetwork) -> str | None:
        """Return what is to be said if a run was left before the network had the final density, else None."""
        if self.densities is None or not self.densities.is_completed:  # which was said at the start
            return None
        final = self.densities.final
        return unreached_density(network, self.densities.onward(final, network.group_densities(final)))

    def _check(self, recipes: list[Recipe], density: ScheduledDensity | None, scheduled: bool) -> None:
        removing = [each for each in recipes if each.prune is not None and each.grow is None and each.count is None]
        if removing and not scheduled:
            raise InvalidValueError(
                expected="a density that changes, for a recipe that only removes weights",
                got=f"{'the default' if density is None else density!r}, which stays",
                cure="density=DensitySchedule(0.05), which goes from a dense network to 5 %",
            )
        if scheduled and all(each.prune is None for each in recipes):
            raise InvalidValueError(
                expected="a recipe that prunes, for a density that changes",
                got=repr(self.recipe),
                cure="recipe='magnitude_pruning', say",
            )
        if scheduled and isinstance(self.recipe, dict) and not isinstance(density, Mapping):
            raise InvalidValueError(
                expected="a density for the layers of each pattern, as each recipe has its own",
                got=f"{density!r} for all of them",
                cure="give a mapping of patterns to densities and schedules",
            )


def as_constant(density: ScheduledDensity | None) -> Density | None:
    """Return a density that doesn't change as it is."""
    return cast("Density | None", density)


def check_density_of(method: Method, density: ScheduledDensity | None) -> None:
    """Raise unless a density is one that stays, and given to a method that has a budget.

    Raises:
        ValueError: If it changes, or is one too many.
    """
    if is_scheduled(density):
        raise InvalidValueError(
            expected="a density that stays, of a run with a method, which changes it where it wants to",
            got=repr(density),
            cure="give the final density, or a recipe instead of the method",
        )
    if method.budget is None and density is not None:
        raise InvalidValueError(
            expected=f"no density for {type(method).__name__}, whose number of active weights is a result",
            got=repr(density),
            cure="drop it; the method's own options say how much it prunes",
        )


def check_no_rate(prune_rate: object, schedule: object) -> None:
    """Raise if a prune rate or its schedule, which are a recipe's, was given beside a method.

    Raises:
        ValueError: If one of them is not the default.
    """
    for name, value, default in (("prune_rate", prune_rate, 0.5), ("schedule", schedule, "cosine")):
        if value is not default and (type(value) is not type(default) or value != default):
            raise InvalidValueError(
                expected=f"no {name} beside a method, which has options of its own",
                got=repr(value),
                cure="drop it, or set the method's option: method=RigL(prune_rate=0.3), say",
            )


def is_scheduled(density: object) -> bool:
    """Tell whether a density, or that of some group, changes."""
    values = density.values() if isinstance(density, Mapping) else (density,)
    return any(isinstance(each, DensitySchedule) for each in values)
