"""The measurements of a run as checkpoints hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_sparse.callbacks.gradient_flow.records import MeasuredNorms, MeasurementHistory
from lightning_sparse.validation.errors import InvalidValueError


def history_state(history: MeasurementHistory) -> dict[str, Any]:
    """Return plain values and at most three tensors, however many measurements there are."""
    history.fetch()
    measurements = history.fetched
    kinds = list(dict.fromkeys(map(_kind, measurements)))
    places = [
        [norms.epoch, norms.step, -1 if norms.optimizer is None else norms.optimizer, kinds.index(_kind(norms))]
        for norms in measurements
    ]
    starting = [bool(norms.is_starting) for norms in measurements]
    return {
        **({"starting": torch.tensor(starting)} if any(starting) else {}),
        "kinds": [[list(layers), has_total] for layers, has_total in kinds],
        "places": torch.tensor(places, dtype=torch.int64).reshape(-1, 4),
        "values": torch.cat(
            [torch.zeros(0, dtype=torch.float64), *(norms.table.reshape(-1) for norms in measurements)]
        ),
    }


def restored_history(state: Mapping[str, Any], rows: int) -> MeasurementHistory:
    """Return the measurements of a state.

    Args:
        state: State that `history_state` returned.
        rows: Number of rows of each table.

    Raises:
        ValueError: If the number of norms doesn't fit the rows and layers.
    """
    measurements, flat = [], state["values"]
    places = state["places"].tolist()
    sizes = [rows * len(state["kinds"][kind][0]) for *_, kind in places]
    if sum(sizes) != len(flat):
        raise InvalidValueError(
            expected=f"{sum(sizes)} numbers of measured gradients",
            got=len(flat),
            cure="resume with the orders that the run began with, from an undamaged checkpoint",
        )
    starting = state["starting"].tolist() if "starting" in state else [False] * len(places)
    for (epoch, step, optimizer, kind), part, is_starting in zip(
        places, torch.split(flat, sizes), starting, strict=True
    ):
        layers, has_total = state["kinds"][kind]
        place = (epoch, step, None if optimizer < 0 else optimizer)
        table = part.view(rows, len(layers)).clone()
        measurements.append(MeasuredNorms(*place, tuple(layers), has_total, table, is_starting))
    return MeasurementHistory(measurements)


def _kind(norms: MeasuredNorms) -> tuple[tuple[str, ...], bool]:
    return norms.layers, norms.has_total
