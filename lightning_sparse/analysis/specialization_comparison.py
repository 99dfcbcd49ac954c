"""Comparison of one value per channel between a dense and a sparse network, layer by layer and over all layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
import torch

from lightning_sparse.analysis.anova import Anova, Effect, Values, two_way_anova
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import ShowsFields


@dataclass(frozen=True)
class LayerDifference:
    """How the channels of one layer differ between two networks.

    Attributes:
        layer: Name of the layer.
        dense_channels: Number of channels that have a value in the dense network.
        sparse_channels: Number of channels that have a value in the sparse network.
        dense_mean: Mean over channels in the dense network.
        sparse_mean: Mean over channels in the sparse network.
        standard_error: Standard error of the difference, without assuming equal variances (Welch); NaN with a single
            channel.
        cohens_d: Difference in units of the pooled standard deviation; NaN if that is zero or unknown.
    """

    layer: str
    dense_channels: int
    sparse_channels: int
    dense_mean: float
    sparse_mean: float
    standard_error: float
    cohens_d: float

    @property
    def difference(self) -> float:
        """The sparse network's mean minus the dense one's."""
        return self.sparse_mean - self.dense_mean


@dataclass(frozen=True, repr=False)
class Comparison(ShowsFields):
    """Two networks compared; as a string it is a table of layers and one of effects.

    Attributes:
        layers: One entry per layer that has values in both networks.
        anova: Analysis of variance value ~ layer * is_sparse.
        left_out: Layers without a value in one of the networks.
    """

    layers: tuple[LayerDifference, ...]
    anova: Anova
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        parts = [
            _table(_LAYER_HEADINGS, map(_layer_row, self.layers)),
            _table(_EFFECT_HEADINGS, _anova_rows(self.anova)),
        ]
        if self.left_out:
            parts.append(f"without values in one of the networks: {', '.join(self.left_out)}")
        return "\n\n".join(parts)


def compare(dense: Mapping[str, Any], sparse: Mapping[str, Any]) -> Comparison:
    """Return how class specialization, or any other value per channel, differs between two networks.

    Layer by layer: the difference of the means with its standard error, and Cohen's d. Over all layers: a two-way
    analysis of variance with type II sums of squares. Both assume independent channels, but channels of one network
    hardly are: p values and errors describe two networks, not two ways of training.

    Args:
        dense: By layer, one number per channel, or the result of `ClassSpecialization`. NaN: no value.
        sparse: The same layers of the sparse network.

    Raises:
        ValueError: If the layers are not the same, fewer than two have values in both networks, values are infinite,
            or they don't vary within a layer of a network.
        ModuleNotFoundError: If statsmodels is not installed.
    """
    if set(dense) != set(sparse):
        raise InvalidValueError(
            expected="the same layers in both networks",
            got=f"{sorted(set(dense) ^ set(sparse))} in one of them only",
            cure="compare networks of the same architecture, or leave these layers out",
        )
    values = {layer: (_values(layer, dense[layer]), _values(layer, sparse[layer])) for layer in dense}
    compared = {layer: pair for layer, pair in values.items() if all(map(len, pair))}
    return Comparison(
        layers=tuple(layer_difference(layer, *pair) for layer, pair in compared.items()),
        anova=two_way_anova(compared),
        left_out=tuple(layer for layer in values if layer not in compared),
    )


def layer_difference(layer: str, dense: Values, sparse: Values) -> LayerDifference:
    """Return how the values of one layer differ between two networks.

    Args:
        layer: Name of the layer.
        dense: Finite numbers ``(channels,)``, at least one, of the dense network.
        sparse: Finite numbers ``(channels,)``, at least one, of the sparse network.

    >>> layer_difference("conv", np.array([1.0, 3.0]), np.array([4.0, 6.0])).difference
    3.0
    """
    groups = (dense, sparse)
    variances = [float(np.var(group, ddof=1)) if len(group) > 1 else nan for group in groups]
    freedom = len(dense) + len(sparse) - 2
    deviation = sqrt(sum(float(np.var(group)) * len(group) for group in groups) / freedom) if freedom else 0.0
    means = [float(np.mean(group)) for group in groups]
    return LayerDifference(
        layer=layer,
        dense_channels=len(dense),
        sparse_channels=len(sparse),
        dense_mean=means[0],
        sparse_mean=means[1],
        standard_error=sqrt(sum(variance / len(group) for variance, group in zip(variances, groups, strict=True))),
        cohens_d=(means[1] - means[0]) / deviation if deviation else nan,
    )


def _values(layer: str, result: Any) -> Values:
    """Return the numbers of a layer's channels, without NaN."""
    channels = result["specialization"] if isinstance(result, Mapping) else result
    numbers = channels.detach().cpu().double().numpy() if isinstance(channels, torch.Tensor) else channels
    values: Values = np.atleast_1d(np.asarray(numbers, dtype=np.float64))  # a layer of one channel may have a scalar
    if values.ndim != 1 or np.isinf(values).any():
        problem = f"shape {values.shape}" if values.ndim != 1 else "infinity"
        raise InvalidValueError(
            expected="one number per channel, finite or NaN",
            got=f"{problem} for layer {layer!r}",
            cure="give the result of ClassSpecialization, or its specialization",
        )
    return values[~np.isnan(values)]


_LAYER_HEADINGS = ("layer", "dense", "sparse", "difference", "std. error", "Cohen's d", "channels")
_EFFECT_HEADINGS = ("factor", "sum of squares", "df", "F", "p", "eta^2", "partial eta^2", "omega^2")


def _layer_row(row: LayerDifference) -> tuple[str, ...]:
    means = f"{row.dense_mean:.4f}", f"{row.sparse_mean:.4f}", f"{row.difference:+.4f}", f"{row.standard_error:.4f}"
    return row.layer, *means, f"{row.cohens_d:+.2f}", f"{row.dense_channels}, {row.sparse_channels}"


def _anova_rows(anova: Anova) -> list[tuple[str, ...]]:
    residual = ("residual", f"{anova.residual_sum_sq:.4g}", str(anova.residual_df), "", "", "", "", "")
    return [*map(_effect_row, anova.effects), residual]


def _effect_row(effect: Effect) -> tuple[str, ...]:
    sizes = effect.eta_sq, effect.partial_eta_sq, effect.omega_sq
    tested = f"{effect.sum_sq:.4g}", str(effect.df), f"{effect.f:.4g}", f"{effect.p:.3g}"
    return effect.factor, *tested, *(f"{size:.3f}" for size in sizes)


def _table(headings: Sequence[str], rows: Any) -> str:
    """Return lines with aligned columns, the first to the left and the others to the right."""
    lines = [tuple(headings), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
