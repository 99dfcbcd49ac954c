"""Records of a run's gradient flow: from tables of norms on the device to metrics, warnings and averages."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite

import torch
from torch import Tensor

from lightning_sparse._compat import Trainer
from lightning_sparse.analysis.gradient_flow import norm_name
from lightning_sparse.selection.patterns import name_list
from lightning_sparse.validation.numbers import check_real
from lightning_sparse.validation.representation import ShowsFields

# First part of all names of metrics.
ROOT = "gradient_flow"
# Epoch, batches that ended with an optimizer step before, and number of the optimizer, None if there is only one.
Place = tuple[int, int, int | None]


@dataclass(frozen=True, repr=False)
class GradientFlowRecord(ShowsFields):
    """Gradient norms of one measurement.

    Attributes:
        epoch: Number of the epoch, from 0 on.
        step: Batches that ended with an optimizer step before this one.
        optimizer: Number of the optimizer whose weights were measured; None if there is only one.
        effective: EGF by name of the norm: ``{"l1": ..., "l2": ...}``.
        total: Norm of the unmasked gradient of all layers as one vector, by name of the norm. Empty if PyTorch prunes
            some layers, whose gradients come masked.
        layers: By layer, norms of the masked gradient by name of the norm, and the number of ``active`` weights.
        flags: "vanishing", "exploding" or "non-finite", by layer that is flagged.
    """

    epoch: int
    step: int
    optimizer: int | None
    effective: dict[str, float]
    total: dict[str, float]
    layers: dict[str, dict[str, float]]
    flags: dict[str, str]

    def metrics(self, *, per_layer: bool, root: str = ROOT) -> dict[str, float]:
        """Return the metrics to log, by full name."""
        root = root_of(self.optimizer, root)
        metrics = {f"{root}/egf_{norm}": value for norm, value in self.effective.items()}
        metrics |= {f"{root}/{norm}": value for norm, value in self.total.items()}
        metrics[f"{root}/flagged"] = float(len(self.flags))
        if per_layer:
            for layer, norms in self.layers.items():
                metrics |= {f"{root}/layer_egf_{norm}/{layer}": norms[norm] for norm in self.effective}
        return metrics


@dataclass(frozen=True)
class FlagThresholds:
    """Thresholds for flagging a layer by its level: the p-norm of its masked gradient over ``active ** (1 / p)``.

    Here p is the largest order that is measured; for p = 2, the level is the root mean square over active weights.

    Attributes:
        vanishing: Fraction of the highest level of all layers at or below which a layer is flagged; >= 0.
        exploding: Level above which a layer is flagged; >= 0.

    Raises:
        ValueError: If a threshold is negative or no number.
    """

    vanishing: float
    exploding: float

    def __post_init__(self) -> None:
        for name in ("vanishing", "exploding"):
            check_real(getattr(self, name), 0, expected=f"{name} >= 0", cure="leave it out for the default")

    def flags(self, levels: Mapping[str, float], *, is_starting: bool = False) -> dict[str, str]:
        """Return the flags of the layers that have one.

        Args:
            levels: Level of each layer.
            is_starting: Whether the network started at zero and is near it yet: then no gradient has vanished.
        """
        highest = max((level for level in levels.values() if isfinite(level)), default=0.0)
        flags = {layer: self._flag(level, highest) for layer, level in levels.items()}
        return {layer: flag for layer, flag in flags.items() if flag and not (is_starting and flag == "vanishing")}

    def _flag(self, level: float, highest: float) -> str:
        if not isfinite(level):
            return "non-finite"
        if level > self.exploding:
            return "exploding"
        return "vanishing" if level <= self.vanishing * highest else ""


@dataclass(frozen=True)
class MeasuredNorms:
    """Norms of one measurement as a table, and its place in the run.

    Attributes:
        epoch: Number of the epoch, from 0 on.
        step: Batches that ended with an optimizer step before this one.
        optimizer: Number of the optimizer whose weights were measured; None if there is only one.
        layers: Names of the weights, one per column.
        has_total: Whether the unmasked gradients are known.
        table: Norms and numbers of active weights as `measure_gradients` returns them.
        is_starting: Whether the network started at zero and was near it, possibly on the device; None: it did not.
    """

    epoch: int
    step: int
    optimizer: int | None
    layers: tuple[str, ...]
    has_total: bool
    table: Tensor
    is_starting: Tensor | bool | None = None

    def record(self, orders: Sequence[float], normalize: str | None, thresholds: FlagThresholds) -> GradientFlowRecord:
        """Return the norms as plain numbers; the table must be on the CPU."""
        count, table = len(orders), self.table.double()
        masked, plain, active = table[:count], table[count:-1], table[-1]
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
        flags = thresholds.flags(
            dict(zip(self.layers, levels.tolist(), strict=True)), is_starting=bool(self.is_starting)
        )
        place = (self.epoch, self.step, self.optimizer)
        return GradientFlowRecord(*place, effective, total if self.has_total else {}, layers, flags)


@dataclass
class MeasurementHistory:
    """All measurements of a run.

    Attributes:
        fetched: Measurements whose tables are on the CPU.
        waiting: Measurements since the latest `fetch`, whose tables are still on their device.
    """

    fetched: list[MeasuredNorms] = field(default_factory=list)
    waiting: list[MeasuredNorms] = field(default_factory=list)

    def add(self, norms: MeasuredNorms, *, replace_last: bool) -> None:
        """Add a measurement, or replace the last one of its epoch and optimizer, which must not be logged yet."""
        if replace_last:
            self._drop_last(norms.epoch, norms.optimizer)
        self.waiting.append(norms)

    def _drop_last(self, epoch: int, optimizer: int | None) -> None:
        for measurements in (self.waiting, self.fetched):
            for index in range(len(measurements) - 1, -1, -1):
                if measurements[index].epoch < epoch:
                    return
                if measurements[index].optimizer == optimizer:
                    del measurements[index]
                    return

    def fetch(self) -> None:
        """Bring the tables that wait to the CPU, with one transfer per device."""
        new, self.waiting = self.waiting, []
        by_device: dict[torch.device, list[int]] = {}
        for index, norms in enumerate(new):
            by_device.setdefault(norms.table.device, []).append(index)
        tables: dict[int, Tensor] = {}
        for indices in by_device.values():
            flat = torch.cat([new[index].table.reshape(-1) for index in indices]).cpu()
            parts = torch.split(flat, [new[index].table.numel() for index in indices])
            # Copies, since a part would keep all of them alive.
            tables |= {i: part.view(new[i].table.shape).clone() for i, part in zip(indices, parts, strict=True)}
        self.fetched += [
            replace(norms, table=tables[index], is_starting=norms.is_starting is not None and bool(norms.is_starting))
            for index, norms in enumerate(new)
        ]


def root_of(optimizer: int | None, root: str = ROOT) -> str:
    """Return the first part of the names of an optimizer's metrics."""
    return root if optimizer is None else f"{root}/optimizer_{optimizer}"


def warn_of_flags(trainer: Trainer, records: Sequence[GradientFlowRecord], warned: set[tuple[str, str]]) -> None:
    """Warn of each layer once for each flag that it gets.

    Args:
        trainer: Trainer of the run; rank zero warns.
        records: New records.
        warned: Layers and flags that were warned of; new ones are added.
    """
    scales = getattr(trainer.precision_plugin, "scaler", None) is not None
    for record in records:
        new = {layer: flag for layer, flag in record.flags.items() if (layer, flag) not in warned}
        warned |= set(new.items())
        for flag in dict.fromkeys(new.values()):
            layers = [layer for layer, its_flag in new.items() if its_flag == flag]
            # A gradient scaler tries scales that are too large, and skips the step.
            if trainer.is_global_zero and not (scales and flag == "non-finite"):
                place = f"epoch {record.epoch}, step {record.step}"
                warnings.warn(f"{flag} gradients in {place}: {name_list(layers)}", stacklevel=2)


def average(records: Sequence[GradientFlowRecord], root: str = ROOT) -> dict[str, float]:
    """Return the mean of each logged metric over the records in which it is finite, and the number of records.

    Args:
        records: Records in any order.
        root: First part of the metrics' names.

    Returns:
        Means by name, such as ``gradient_flow/egf_l2``; ``measured``: the number of records; ``non_finite``: the number
        of records with a metric that is not finite, as of steps that a gradient scaler skipped.
    """
    by_name: dict[str, list[float]] = {}
    non_finite = 0
    for record in records:
        metrics = record.metrics(per_layer=False, root=root)
        non_finite += not all(map(isfinite, metrics.values()))
        for name, value in metrics.items():
            by_name.setdefault(name, []).append(value)
    finite = {name: [value for value in numbers if isfinite(value)] for name, numbers in by_name.items()}
    means = {name: sum(numbers) / len(numbers) for name, numbers in finite.items() if numbers}
    return {**means, "measured": len(records), "non_finite": non_finite}
