"""The initial number of active weights per layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from lightning_sparse.topology.select import apportion
from lightning_sparse.validation.errors import InvalidValueError

Shape = Sequence[int]


def uniform(shape: Shape) -> float:
    """Claim in proportion to the number of weights: the same density everywhere (Dettmers & Zettlemoyer 2019)."""
    return float(prod(shape))


def erdos_renyi(shape: Shape) -> float:
    """Claim `size * (out + in) / (out * in)`: sparser, the larger the layer (Mocanu et al. 2018, eq. 3)."""
    out_features, in_features, *kernel = shape
    return float(prod(kernel) * (out_features + in_features))


def erdos_renyi_kernel(shape: Shape) -> float:
    """Claim the sum of all dimensions, the kernel's included (Evci et al. 2020, section 3)."""
    return float(sum(shape))


DISTRIBUTIONS: dict[str, Callable[[Shape], float]] = {
    "uniform": uniform,
    "erdos_renyi": erdos_renyi,
    "erdos_renyi_kernel": erdos_renyi_kernel,
}


def allocate(shapes: Sequence[Shape], total: int, distribution: str = "uniform", min_active: int = 1) -> list[int]:
    """Split `total` active weights over layers, exactly; full layers pass on what they can't take, in proportion.

    Args:
        shapes: Shapes of the weights, `(out, in, *kernel)`.
        total: Active weights of the whole network.
        distribution: A name in `DISTRIBUTIONS`.
        min_active: Minimum number of active weights per layer; of a smaller layer, its size.

    Raises:
        ValueError: If the distribution is unknown or the total out of reach, with the feasible range.

    >>> allocate([(300, 784), (100, 300), (10, 100)], 26620, "erdos_renyi_kernel")
    [18714, 6906, 1000]
    """
    if distribution not in DISTRIBUTIONS:
        raise InvalidValueError(
            expected=f"a distribution from {', '.join(DISTRIBUTIONS)}",
            got=repr(distribution),
            cure="name one",
        )
    sizes = [prod(shape) for shape in shapes]
    least = [min(min_active, size) for size in sizes]
    if not sum(least) <= total <= sum(sizes):
        raise InvalidValueError(
            expected=(
                f"between {sum(least)} and {sum(sizes)} active weights (at least {min_active} per layer), a "
                f"density from {sum(least) / sum(sizes):.3g} to 1"
            ),
            got=total,
            cure="another density or a lower min_active",
        )
    return apportion(total, [DISTRIBUTIONS[distribution](shape) for shape in shapes], sizes, least, "proportional")
