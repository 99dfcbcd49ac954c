"""Metrics of class specialization for the loggers, and the warning for a measurement that failed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import Tensor


def specialization_metrics(
    result: Mapping[str, Mapping[str, Tensor]], prefix: str = "specialization"
) -> dict[str, float]:
    """Return `<prefix>/<layer>/mean`, `/q25`, `/median`, `/q75` (in [0, 1]) and `/dead` (channels) of each layer.

    Channels without a specialization (NaN) are left out; a layer of such channels only has `/dead` alone.
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


def warn_of_failed_measurement(error: Exception, epochs: int) -> None:
    """Warn that the measurement after this many epochs failed, while training continues or ends normally."""
    warnings.warn(
        f"Expected to measure class specialization after {epochs} epochs; got {type(error).__name__}: {error} Training "
        "is not affected. Cure: that of this error; then measure the trained module by trainer.test, with when='test'.",
        stacklevel=2,
    )
