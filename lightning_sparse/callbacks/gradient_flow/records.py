"""What was measured of a run's gradients, from the device to records, logs and averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.analysis.gradient_flow import norm_name
from lightning_sparse.validation.errors import InvalidValueError

# What all names begin with.
ROOT = "gradient_flow"


@dataclass(frozen=True)
class GradientFlowRecord:
    """One measurement.

    Attributes:
        epoch: Number of the epoch, from 0 on.
        step: Batches that ended with an optimizer step before this one.
        optimizer: Number of the optimizer whose weights were measured; None if there is only one.
        effective: EGF by name of the norm: ``{"l1": ..., "l2": ...}``.
        total: Norm of the unmasked gradient of all layers as one vector, likewise. Empty if there are layers that
            PyTorch prunes, whose gradients come masked.
        layers: Norms of the masked gradient by layer, likewise, and its number of ``active`` weights.
        flags: "vanishing", "exploding" or "non-finite" by layer, for those that are.
    """

    epoch: int
    step: int
    optimizer: int | None
    effective: dict[str, float]
    total: dict[str, float]
    layers: dict[str, dict[str, float]]
    flags: dict[str, str]

    def metrics(self, *, per_layer: bool, root: str = ROOT) -> dict[str, float]:
        """Return what is logged, by full name."""
        root = root_of(self.optimizer, root)
        found = {f"{root}/egf_{norm}": value for norm, value in self.effective.items()}
        found |= {f"{root}/{norm}": value for norm, value in self.total.items()}
        found[f"{root}/flagged"] = float(len(self.flags))
        if per_layer:
            for layer, norms in self.layers.items():
                found |= {f"{root}/egf_{norm}/{layer}": norms[norm] for norm in self.effective}
        return found


@dataclass(frozen=True)
class Limits:
    """When a layer is flagged, by its level: the p-norm of its masked gradient over ``active ** (1 / p)``.

    With p, the largest order that is measured; for p = 2, the root of the mean square over its active weights.

    Attributes:
        vanishing: Flagged below this part of the highest level of all layers, or at zero.
        exploding: Flagged above this level.
    """

    vanishing: float
    exploding: float

    def flags(self, levels: Mapping[str, float]) -> dict[str, str]:
        """Return the flags of the layers that have one."""
        highest = max((level for level in levels.values() if isfinite(level)), default=0.0)
        found = {layer: self._flag(level, highest) for layer, level in levels.items()}
        return {layer: flag for layer, flag in found.items() if flag}

    def _flag(self, level: float, highest: float) -> str:
        if not isfinite(level):
            return "non-finite"
        if level > self.exploding:
            return "exploding"
        return "vanishing" if level <= self.vanishing * highest else ""


@dataclass(frozen=True)
class Measurement:
    """A table of norms as `measure` returns it, and where in the run it is from."""

    epoch: int
    step: int
    optimizer: int | None
    layers: tuple[str, ...]
    has_total: bool
    table: Tensor

    def record(self, orders: Sequence[float], normalize: str | None, limits: Limits) -> GradientFlowRecord:
        """Return it as plain numbers; its table must be on the CPU."""
        count, values = len(orders), self.table.double()
        masked, plain, active = values[:count], values[count:-1], values[-1]
        per_layer = masked / active.clamp(min=1) if normalize == "active" else masked
        names = [norm_name(p) for p in orders]
        effective = {name: float(row.mean()) for name, row in zip(names, per_layer, strict=True)}
        rows = zip(names, plain, orders, strict=True)
        total = {name: float(torch.linalg.vector_norm(row, p)) for name, row, p in rows}
        layers = {
            layer: {**dict(zip(names, norms, strict=True)), "active": int(number)}
            for layer, norms, number in zip(self.layers, per_layer.T.tolist(), active.tolist(), strict=True)
        }
        p = max(orders)
        levels = masked[orders.index(p)] / active.clamp(min=1) ** (0.0 if p == inf else 1 / p)
        flags = limits.flags(dict(zip(self.layers, levels.tolist(), strict=True)))
        place = (self.epoch, self.step, self.optimizer)
        return GradientFlowRecord(*place, effective, total if self.has_total else {}, layers, flags)


@dataclass
class Measurements:
    """All measurements of a run; those since the last `fetch` are still where they were made."""

    fetched: list[Measurement] = field(default_factory=list)
    waiting: list[Measurement] = field(default_factory=list)

    def add(self, measurement: Measurement, *, instead: bool) -> None:
        """Add one; with `instead`, in place of the last one of the same epoch and optimizer, which can't be logged."""
        if instead:
            self._drop(measurement.epoch, measurement.optimizer)
        self.waiting.append(measurement)

    def _drop(self, epoch: int, optimizer: int | None) -> None:
        for measurements in (self.waiting, self.fetched):
            for index in range(len(measurements) - 1, -1, -1):
                if measurements[index].epoch < epoch:
                    return
                if measurements[index].optimizer == optimizer:
                    del measurements[index]
                    return

    def fetch(self) -> list[Measurement]:
        """Bring those that wait to the CPU, all with one transfer per device, and return them."""
        new, self.waiting = self.waiting, []
        by_device: dict[torch.device, list[int]] = {}
        for index, measurement in enumerate(new):
            by_device.setdefault(measurement.table.device, []).append(index)
        tables: dict[int, Tensor] = {}
        for indices in by_device.values():
            flat = torch.cat([new[index].table.reshape(-1) for index in indices]).cpu()
            parts = torch.split(flat, [new[index].table.numel() for index in indices])
            # Copies, since a part would keep all of them alive.
            tables |= {i: part.view(new[i].table.shape).clone() for i, part in zip(indices, parts, strict=True)}
        new = [replace(measurement, table=tables[index]) for index, measurement in enumerate(new)]
        self.fetched += new
        return new

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and one tensor, however many measurements there are."""
        self.fetch()
        kinds = list(dict.fromkeys((each.layers, each.has_total) for each in self.fetched))
        places = [
            [each.epoch, each.step, -1 if each.optimizer is None else each.optimizer, kinds.index(_kind(each))]
            for each in self.fetched
        ]
        return {
            "kinds": [[list(layers), has_total] for layers, has_total in kinds],
            "places": torch.tensor(places, dtype=torch.int64).reshape(-1, 4),
            "values": torch.cat(
                [torch.zeros(0, dtype=torch.float64), *(each.table.reshape(-1) for each in self.fetched)]
            ),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], rows: int) -> Measurements:
        """Return the measurements that `state_dict` was called on.

        Args:
            state: What it returned.
            rows: Of each table.

        Raises:
            ValueError: If the numbers of values don't fit.
        """
        found, values = [], state["values"]
        places = state["places"].tolist()
        sizes = [rows * len(state["kinds"][kind][0]) for *_, kind in places]
        if sum(sizes) != len(values):
            raise InvalidValueError(
                expected=f"{sum(sizes)} numbers of measured gradients",
                got=len(values),
                cure="resume with the orders that the run began with, from an undamaged checkpoint",
            )
        for (epoch, step, optimizer, kind), part in zip(places, torch.split(values, sizes), strict=True):
            layers, has_total = state["kinds"][kind]
            place = (epoch, step, None if optimizer < 0 else optimizer)
            found.append(Measurement(*place, tuple(layers), has_total, part.view(rows, len(layers)).clone()))
        return cls(found)


def _kind(measurement: Measurement) -> tuple[tuple[str, ...], bool]:
    return measurement.layers, measurement.has_total


def root_of(optimizer: int | None, root: str = ROOT) -> str:
    """Return what the names of an optimizer's measures begin with."""
    return root if optimizer is None else f"{root}/optimizer_{optimizer}"


def average(records: Sequence[GradientFlowRecord], root: str = ROOT) -> dict[str, float]:
    """Return the mean of each logged measure over the records in which it is finite, and how many there are.

    Args:
        records: In any order.
        root: What their names begin with.

    Returns:
        By name, such as ``gradient_flow/egf_l2``; ``measured``: the number of records; ``non_finite``: of those that
        have a measure that is not finite, as steps that a gradient scaler skipped.
    """
    values: dict[str, list[float]] = {}
    broken = 0
    for record in records:
        metrics = record.metrics(per_layer=False, root=root)
        broken += not all(map(isfinite, metrics.values()))
        for name, value in metrics.items():
            values.setdefault(name, []).append(value)
    finite = {name: [value for value in found if isfinite(value)] for name, found in values.items()}
    means = {name: sum(found) / len(found) for name, found in finite.items() if found}
    return {**means, "measured": len(records), "non_finite": broken}
