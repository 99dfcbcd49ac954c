"""Metrics of class specialization for the loggers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def specialization_metrics(
    result: Mapping[str, Mapping[str, Tensor]], prefix: str = "specialization"
) -> dict[str, float]:
    """Return `<prefix>/<layer>/mean`, `/q25`, `/median`, `/q75` (in [0, 1]) and `/dead` (channels) of each layer.

    Only the channels that have a specialization count; where there are none, neither has the layer.
    """
    metrics: dict[str, float] = {}
    for layer, computed in result.items():
        values = computed["specialization"]
        values = values[~values.isnan()]
        metrics[f"{prefix}/{layer}/dead"] = float(computed["dead"])
        if len(values):
            metrics[f"{prefix}/{layer}/mean"] = float(values.mean())
            for name, part in (("q25", 0.25), ("median", 0.5), ("q75", 0.75)):
                metrics[f"{prefix}/{layer}/{name}"] = float(values.quantile(part))
    return metrics
