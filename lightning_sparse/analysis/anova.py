"""A two-way analysis of variance with effect sizes, of groups of unequal size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_sparse.validation.errors import InvalidValueError, MissingPackageError

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """One row of an analysis of variance.

    Attributes:
        factor: "layer", "is_sparse", or "layer:is_sparse" for the interaction.
        sum_sq: Sum of squares, type II.
        df: Degrees of freedom.
        f: F statistic.
        p: p value of `f`.
        eta_sq: `sum_sq` / sum of `sum_sq` over all rows, the residual among them.
        partial_eta_sq: `sum_sq` / (`sum_sq` + sum of squares of the residual).
        omega_sq: (`sum_sq` - `df` * mean square of the residual) / (sum over all rows + mean square of the residual).
            An estimate of the part of the population's variance; it may be below 0.
    """

    factor: str
    sum_sq: float
    df: int
    f: float
    p: float
    eta_sq: float
    partial_eta_sq: float
    omega_sq: float


@dataclass(frozen=True)
class Anova:
    """An analysis of variance.

    Attributes:
        effects: Effects of the layer, of sparsity, and of their interaction.
        residual_sum_sq: Sum of squares within layer and network.
        residual_df: Degrees of freedom within layer and network.
    """

    effects: tuple[Effect, ...]
    residual_sum_sq: float
    residual_df: int


def two_way_anova(values: Mapping[str, tuple[Values, Values]]) -> Anova:
    """Return the analysis of variance value ~ layer * is_sparse.

    Type II: each factor's sum of squares is the part that it explains beyond the other factor, and the interaction's
    the part that it explains beyond both. Groups may have different sizes.

    Args:
        values: Finite numbers of the dense and of the sparse network, at least one of each, by layer.

    Raises:
        ValueError: If there are fewer than two layers, or values don't vary within layer and network.
        ModuleNotFoundError: If statsmodels is not installed.
    """
    _check_groups(values)
    groups = [(layer, sparse, group) for layer, pair in values.items() for sparse, group in enumerate(pair)]
    table = _fit_table(
        value=np.concatenate([group for *_, group in groups]),
        layer=[layer for layer, _, group in groups for _ in group],
        is_sparse=[sparse for _, sparse, group in groups for _ in group],
    )
    *explained, residual = table[["sum_sq", "df", "F", "PR(>F)"]].to_numpy().tolist()
    total, mean_square = sum(row[0] for row in (*explained, residual)), residual[0] / residual[1]
    effects = tuple(
        Effect(
            factor=factor,
            sum_sq=square,
            df=round(df),
            f=f,
            p=p,
            eta_sq=square / total,
            partial_eta_sq=square / (square + residual[0]),
            omega_sq=(square - df * mean_square) / (total + mean_square),
        )
        for factor, (square, df, f, p) in zip(("layer", "is_sparse", "layer:is_sparse"), explained, strict=True)
    )
    return Anova(effects, residual[0], round(residual[1]))


def _fit_table(**data: Sequence[Any] | Values) -> Any:
    try:
        formula, anova = import_module("statsmodels.formula.api"), import_module("statsmodels.stats.anova")
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            expected="statsmodels for an analysis of variance",
            got="none",
            cure="pip install statsmodels, or lightning_sparse with its extra 'analysis'",
            name=error.name,
        ) from error
    frame = import_module("pandas").DataFrame(data)  # a dependency of statsmodels
    return anova.anova_lm(formula.ols("value ~ C(layer) * C(is_sparse)", frame).fit(), typ=2)


def _check_groups(values: Mapping[str, tuple[Values, Values]]) -> None:
    if len(values) < 2:
        raise InvalidValueError(
            expected="at least two layers with values in both networks",
            got=list(values),
            cure="give more layers, or compare one with layer_difference",
        )
    groups = [group for pair in values.values() for group in pair]
    if not any(np.ptp(group) > 0 for group in groups):
        raise InvalidValueError(
            expected="values that vary within a layer of a network",
            got="one value, or equal ones, in each",
            cure="compare layers of several channels",
        )
