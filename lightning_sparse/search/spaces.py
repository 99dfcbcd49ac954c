"""Spaces of densities to search: by layer, by group of layers, or by a power law in the layers' sizes.

The search over layer-wise densities is that of Tessera's thesis (2021), which learns the percentage of active weights
of each layer; how it searches is not published, and the spaces and samplers here are choices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import log

from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import ShowsFields

# Densities to choose from: 5 %, 10 %, ..., 100 %.
GRID = tuple(step / 20 for step in range(1, 21))
# Exponents of the power law to choose from; 0 is the same density everywhere, 1 the same number of active weights.
EXPONENTS = tuple(step / 10 for step in range(11))

# The chosen option of each choice, by its index.
Genotype = tuple[int, ...]


class Space(ABC):
    """Choices, each among ordered options, and the densities of all layers that they stand for."""

    @property
    @abstractmethod
    def choices(self) -> dict[str, tuple[float, ...]]:
        """Options of each choice by its name, in ascending order."""

    @abstractmethod
    def densities(self, genotype: Genotype) -> dict[str, float]:
        """Return the density of each layer, in (0, 1].

        Raises:
            ValueError: If the genotype has another number of choices, or an option that there isn't.
        """

    @property
    @abstractmethod
    def description(self) -> str:
        """Noun phrase for what is chosen."""

    @abstractmethod
    def like(self, densities: Mapping[str, float]) -> Genotype:
        """Return a genotype whose densities are near to these.

        Args:
            densities: Density of each layer, in (0, 1].
        """

    def scaled(self, genotype: Genotype, factor: float) -> Genotype:
        """Return a genotype of the densities that are nearest to these times a factor.

        Args:
            genotype: The genotype.
            factor: Factor in [0, 1].
        """
        return self.nearest([factor * density for density in self.chosen(genotype)])

    def chosen(self, genotype: Genotype) -> list[float]:
        """Return the option of each choice.

        Raises:
            ValueError: If the genotype has another number of choices, or an option that there isn't.
        """
        options = list(self.choices.values())
        fits = len(genotype) == len(options) and all(
            0 <= index < len(each) for index, each in zip(genotype, options, strict=True)
        )
        if not fits:
            raise InvalidValueError(
                expected=f"an option for each of {', '.join(self.choices)}",
                got=list(genotype),
                cure="indices of the options, from 0 on",
            )
        return [each[index] for index, each in zip(genotype, options, strict=True)]

    def nearest(self, values: Sequence[float]) -> Genotype:
        """Return the genotype whose options are nearest to these values; of two equally near, the smaller."""
        options = self.choices.values()
        return tuple(
            min(range(len(each)), key=lambda index, each=each, value=value: abs(each[index] - value))  # type: ignore[misc]  # mypy doesn't know defaults of lambdas
            for each, value in zip(options, values, strict=True)
        )


def _check_sizes(sizes: Mapping[str, int]) -> None:
    if not sizes or min(sizes.values()) < 1:
        raise InvalidValueError(
            expected="layers with their numbers of weights", got=dict(sizes), cure="those of a network"
        )


@dataclass(frozen=True, repr=False)
class LayerDensities(ShowsFields, Space):
    """A density for each layer.

    Attributes:
        sizes: Number of weights of each layer by name.
        grid: Densities to choose from, ascending, in (0, 1].
    """

    sizes: Mapping[str, int]
    grid: tuple[float, ...] = GRID

    def __post_init__(self) -> None:
        _check_sizes(self.sizes)
        _check_grid(self.grid)

    @property
    def choices(self) -> dict[str, tuple[float, ...]]:
        """The grid for each layer."""
        return dict.fromkeys(self.sizes, self.grid)

    @property
    def description(self) -> str:
        """Noun phrase for what is chosen."""
        return f"the densities of {len(self.sizes)} layers"

    def densities(self, genotype: Genotype) -> dict[str, float]:
        """Return the density of each layer."""
        return dict(zip(self.sizes, self.chosen(genotype), strict=True))

    def like(self, densities: Mapping[str, float]) -> Genotype:
        """Return the nearest density of each layer."""
        return self.nearest([densities[layer] for layer in self.sizes])


@dataclass(frozen=True, repr=False)
class GroupDensities(ShowsFields, Space):
    """A density for each group of layers.

    Attributes:
        sizes: Number of weights of each layer by name.
        groups: Patterns of layers' names; a layer belongs to the first that matches.
        grid: Densities to choose from, ascending, in (0, 1].

    Raises:
        ValueError: If a layer belongs to no group, or a group has no layer.
    """

    sizes: Mapping[str, int]
    groups: tuple[str, ...]
    grid: tuple[float, ...] = GRID
    _group_of: dict[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        _check_sizes(self.sizes)
        _check_grid(self.grid)
        if len(set(self.groups)) < len(self.groups):
            raise InvalidValueError(expected="groups that differ", got=list(self.groups), cure="give each pattern once")
        for layer in self.sizes:
            matching = [pattern for pattern in self.groups if fnmatchcase(layer, pattern)]
            if not matching:
                raise InvalidValueError(
                    expected=f"a group for layer {layer!r}",
                    got=list(self.groups),
                    cure="add the pattern '*' at the end",
                )
            self._group_of[layer] = matching[0]
        if empty := sorted(set(self.groups) - set(self._group_of.values())):
            raise InvalidValueError(
                expected=f"layers in every group, among {', '.join(self.sizes)}",
                got=f"none in {', '.join(empty)}",
                cure="leave it out, or put it before a pattern that takes its layers",
            )

    @property
    def choices(self) -> dict[str, tuple[float, ...]]:
        """The grid for each group."""
        return dict.fromkeys(self.groups, self.grid)

    @property
    def description(self) -> str:
        """Noun phrase for what is chosen."""
        return f"the densities of {len(self.groups)} groups of {len(self.sizes)} layers"

    def densities(self, genotype: Genotype) -> dict[str, float]:
        """Return the density of each layer, that of its group."""
        by_group = dict(zip(self.groups, self.chosen(genotype), strict=True))
        return {layer: by_group[self._group_of[layer]] for layer in self.sizes}

    def like(self, densities: Mapping[str, float]) -> Genotype:
        """Return the density that is nearest to the active share of each group."""
        shares = []
        for group in self.groups:
            layers = [layer for layer in self.sizes if self._group_of[layer] == group]
            active = sum(densities[layer] * self.sizes[layer] for layer in layers)
            shares.append(active / sum(self.sizes[layer] for layer in layers))
        return self.nearest(shares)


@dataclass(frozen=True, repr=False)
class PowerLaw(ShowsFields, Space):
    """Densities that fall with a layer's size: ``min(1, c * size ** -exponent)``, of which two numbers are searched.

    These are the density of the whole network, which `c` is solved for, and the exponent.

    Attributes:
        sizes: Number of weights of each layer by name.
        grid: Densities of the whole network to choose from, ascending, in (0, 1].
        exponents: Exponents to choose from, ascending, >= 0.
    """

    sizes: Mapping[str, int]
    grid: tuple[float, ...] = GRID
    exponents: tuple[float, ...] = EXPONENTS

    def __post_init__(self) -> None:
        _check_sizes(self.sizes)
        _check_grid(self.grid)
        found = self.exponents
        if not found or list(found) != sorted(set(found)) or found[0] < 0:
            raise InvalidValueError(
                expected="exponents >= 0, in ascending order", got=list(found), cure="[0.0, 0.5, 1.0], for instance"
            )

    @property
    def choices(self) -> dict[str, tuple[float, ...]]:
        """The grid and the exponents."""
        return {"density": self.grid, "exponent": self.exponents}

    @property
    def description(self) -> str:
        """Noun phrase for what is chosen."""
        return f"power laws in the sizes of {len(self.sizes)} layers"

    def densities(self, genotype: Genotype) -> dict[str, float]:
        """Return the density of each layer."""
        density, exponent = self.chosen(genotype)
        return power_law(self.sizes, density, exponent)

    def scaled(self, genotype: Genotype, factor: float) -> Genotype:
        """Return a genotype of the nearest density of the whole times a factor, and of the same exponent."""
        density, exponent = self.chosen(genotype)
        return self.nearest([factor * density, exponent])

    def like(self, densities: Mapping[str, float]) -> Genotype:
        """Return what is nearest in density of the whole, and of these in the densities' logarithms."""
        active = sum(densities[layer] * size for layer, size in self.sizes.items())
        density, _ = self.nearest([active / sum(self.sizes.values()), 0.0])

        def distance(exponent: int) -> float:
            found = self.densities((density, exponent))
            return sum((log(found[layer]) - log(densities[layer])) ** 2 for layer in self.sizes)

        return density, min(range(len(self.exponents)), key=distance)


def power_law(sizes: Mapping[str, int], density: float, exponent: float) -> dict[str, float]:
    """Return densities ``min(1, c * size ** -exponent)`` of layers with a given density of the whole.

    Args:
        sizes: Number of weights of each layer by name.
        density: Active share of all weights, in (0, 1].
        exponent: Exponent >= 0.

    >>> power_law({"a": 100, "b": 400}, 0.5, 0.5)
    {'a': 0.833..., 'b': 0.416...}
    """
    budget, left = density * sum(sizes.values()), dict(sizes)
    full: dict[str, float] = {}
    while left:
        scale = (budget - sum(sizes[layer] for layer in full)) / sum(size ** (1 - exponent) for size in left.values())
        over = [layer for layer, size in left.items() if scale * size**-exponent >= 1]
        if not over:
            return {layer: full.get(layer, scale * size**-exponent) for layer, size in sizes.items()}
        for layer in over:  # a layer can't have more than all of its weights: the others get what is left
            full[layer] = 1.0
            del left[layer]
    return dict.fromkeys(sizes, 1.0)


def _check_grid(grid: tuple[float, ...]) -> None:
    if not grid or list(grid) != sorted(set(grid)) or not 0 < grid[0] <= grid[-1] <= 1:
        raise InvalidValueError(
            expected="densities in (0, 1], in ascending order",
            got=list(grid),
            cure="[0.1, 0.2, 0.5, 1.0], for instance",
        )
