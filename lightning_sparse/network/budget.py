"""From a density to an exact number of active weights per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real

from lightning_sparse.selection.patterns import Pattern, as_patterns
from lightning_sparse.selection.weight import Weight
from lightning_sparse.selection.weights import matching
from lightning_sparse.topology.density import DISTRIBUTIONS, allocate
from lightning_sparse.validation.errors import InvalidValueError

Density = float | Mapping[str, float]

# The paper's, and the one of the examples.
DEFAULT_DENSITY = 0.05


@dataclass(frozen=True)
class LayerDensity:
    """How much of one weight is active.

    Attributes:
        shape: Shape of the weight, `(out, in, *kernel)`.
        size: Number of weights.
        active: Number of active weights.
        dense: Whether it is to stay dense.
    """

    shape: tuple[int, ...]
    size: int
    active: int
    dense: bool

    @property
    def density(self) -> float:
        """Active fraction, in [0, 1]."""
        return self.active / self.size


def as_density(density: Density | None, sparsity: Density | None) -> Density:
    """Return the density that is meant by one of the two, which exclude each other; 0.05 if neither is given.

    Raises:
        ValueError: If both are given or one is out of range.

    >>> as_density(None, 0.95)
    0.05
    """
    if density is not None and sparsity is not None:
        raise InvalidValueError(
            expected="a density or a sparsity",
            got=f"density={density!r} and sparsity={sparsity!r}",
            cure="drop one of them; sparsity is 1 - density",
        )
    if sparsity is None:
        return DEFAULT_DENSITY if density is None else density
    if isinstance(sparsity, Mapping):
        return {pattern: _complement(value, f" in the layers {pattern!r}") for pattern, value in sparsity.items()}
    return _complement(sparsity)


def optional_density(density: Density | None, sparsity: Density | None) -> Density | None:
    """Return the density that is meant by one of the two, as `as_density` does; None if neither is given."""
    return None if density is None and sparsity is None else as_density(density, sparsity)


def _complement(sparsity: float, where: str = "") -> float:
    if not _is_number(sparsity) or not 0 <= sparsity < 1:
        raise InvalidValueError(
            expected=f"a sparsity in [0, 1), the fraction of weights that are zero{where}",
            got=repr(sparsity),
            cure="for a density of 5 % the sparsity is 0.95, a number" + _cure_of_tensor(sparsity),
        )
    # In decimals, so that 1 - 0.95 is 0.05 and not a little more.
    return float(1 - Decimal(repr(float(sparsity))))


def _cure_of_tensor(value: object) -> str:
    return "; item() returns that of a tensor" if hasattr(value, "item") else ""


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def initial_counts(
    weights: dict[str, Weight],
    density: Density,
    distribution: str = "uniform",
    dense: Sequence[Pattern] = (),
    min_active: int = 1,
) -> dict[str, int]:
    """Return the number of active weights per layer; for a number as density they sum to `round(density * N)`.

    Args:
        weights: The maskable weights, N in all.
        density: Fraction in (0, 1] of all N weights that are active; or a mapping of layer patterns to the density of
            each layer they match, of which the first match counts and every layer needs one.
        distribution: Distribution of one density over layers: a name in `topology.density.DISTRIBUTIONS`.
        dense: Patterns of layers that stay dense; they count in N and use up budget.
        min_active: Minimum number of active weights per layer.

    Raises:
        ValueError: If a density is outside (0, 1] or out of reach, or a pattern or the distribution is unknown.
    """
    check_density_options(density, distribution, min_active)
    min_active = int(min_active)
    full = {name for pattern in dense for name in matching(weights, pattern)}
    open_names = [name for name in weights if name not in full]
    sizes = {name: weight.parameter.numel() for name, weight in weights.items()}
    if isinstance(density, Mapping):
        counts = _by_pattern({name: weights[name] for name in open_names}, density, min_active)
    else:
        counts = _by_total(weights, open_names, float(density), distribution, min_active)
    return {name: counts.get(name, sizes[name]) for name in weights}


def check_density_options(density: Density, distribution: str, min_active: int) -> None:
    """Check what can be checked before there is a model.

    Raises:
        ValueError: If a density is not in (0, 1], the distribution is unknown, `min_active` is not an integer >= 0,
            or densities per layer come with a distribution.
    """
    if distribution not in tuple(DISTRIBUTIONS):
        raise InvalidValueError(
            expected=f"a distribution from {', '.join(DISTRIBUTIONS)}",
            got=repr(distribution),
            cure="name one of these",
        )
    if isinstance(min_active, bool) or not isinstance(min_active, Integral) or min_active < 0:
        raise InvalidValueError(
            expected="a minimum number of active weights per layer, an integer >= 0",
            got=repr(min_active),
            cure="min_active is 1 by default",
        )
    if not isinstance(density, Mapping):
        check_density(density)
        return
    if not density:
        raise InvalidValueError(
            expected="a density for every layer",
            got="an empty mapping",
            cure="{'*': 0.05}, say",
        )
    if distribution != "uniform":
        raise InvalidValueError(
            expected="either densities per layer or a distribution of one density",
            got=f"{dict(density)!r} and {distribution!r}",
            cure="drop one of the two",
        )
    as_patterns(tuple(density))
    for pattern, value in density.items():
        check_density(value, f" in the layers {pattern!r}")


def check_density(density: float, where: str = "") -> None:
    """Raise a ValueError unless a density lies in (0, 1]; `where` says of what it is one."""
    if not _is_number(density) or not 0 < density <= 1:
        raise InvalidValueError(
            expected=f"a density in (0, 1], the fraction of weights that stay active{where}",
            got=repr(density),
            cure="for a sparsity of 95 % the density is 0.05, a number" + _cure_of_tensor(density),
        )


def _by_total(
    weights: dict[str, Weight], open_names: list[str], density: float, distribution: str, min_active: int
) -> dict[str, int]:
    sizes = {name: weight.parameter.numel() for name, weight in weights.items()}
    whole, open_size = sum(sizes.values()), sum(sizes[name] for name in open_names)
    total = round(density * whole)
    least = sum(min(min_active, sizes[name]) for name in open_names)
    closed = whole - open_size
    if not closed + least <= total <= whole:
        raise InvalidValueError(
            expected=(
                f"a density from {(closed + least) / whole} to 1: of {whole} weights {closed} stay dense and "
                f"the other {len(open_names)} layers keep at least {min_active} each"
            ),
            got=density,
            cure="a higher density, fewer dense layers or a lower min_active",
        )
    shapes = [tuple(weights[name].parameter.shape) for name in open_names]
    if not shapes:
        return {}
    return dict(zip(open_names, allocate(shapes, total - closed, distribution, min_active), strict=True))


def _by_pattern(weights: dict[str, Weight], densities: Mapping[str, float], min_active: int) -> dict[str, int]:
    for pattern in densities:
        matching(weights, pattern)
    counts = {}
    for name, weight in weights.items():
        matched = [value for pattern, value in densities.items() if weight.matches(pattern)]
        if not matched:
            raise InvalidValueError(
                expected="a density for every layer",
                got=f"none for {name!r}",
                cure="add '*' as the last pattern",
            )
        size = weight.parameter.numel()
        counts[name] = max(round(float(matched[0]) * size), min(min_active, size))
    return counts
