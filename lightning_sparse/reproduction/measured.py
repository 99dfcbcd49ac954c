"""Means over the finished runs of a table's cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lightning_sparse.experiments.results import read_result
from lightning_sparse.experiments.setting import FULL, Scale, Setting
from lightning_sparse.reproduction.study import Cell, Measure

# Half the width of a 95 % interval in standard errors; normal, as the authors compute theirs.
_INTERVAL = 1.96


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, in percent.

    Attributes:
        value: The mean.
        error: Its standard error (with n - 1 degrees of freedom); None for fewer than two runs.
        runs: Number of runs.
    """

    value: float
    error: float | None
    runs: int

    @classmethod
    def over(cls, values: Sequence[float]) -> Mean | None:
        """Return the mean of the values; None without values.

        >>> Mean.over([1.0, 2.0, 3.0])
        Mean(value=2.0, error=0.5773502691896258, runs=3)
        """
        if not values:
            return None
        return cls(fmean(values), stdev(values) / sqrt(len(values)) if len(values) > 1 else None, len(values))

    def minus(self, other: Mean) -> Mean:
        """Return the difference of two independent means."""
        both = self.error is not None and other.error is not None
        error = sqrt((self.error or 0) ** 2 + (other.error or 0) ** 2) if both else None
        return Mean(self.value - other.value, error, min(self.runs, other.runs))

    def reaches(self, dense: Mean, measure: Measure) -> bool | None:
        """Return whether the 95 % intervals overlap, or this is better than the dense network; None if unknown."""
        if self.error is None or dense.error is None:
            return None
        worse = self.value - dense.value if measure == "error" else dense.value - self.value
        return worse <= _INTERVAL * (self.error + dense.error)


class MeasuredCells:
    """The cells of a table as finished runs measure them, read from a folder of results.

    Args:
        folder: Folder of the results, with one JSON file per run.
        scale: Scale of the runs to read.

    Attributes:
        folder: Folder of this scale's runs and tables.
        scale: Scale of the runs.
    """

    def __init__(self, folder: Path, scale: Scale = FULL) -> None:
        self.folder = folder / scale.name
        self.scale = scale

    def runs(self, setting: Setting) -> list[dict[str, Any]]:
        """Return the finished runs of a setting, by seed.

        Raises:
            ValueError: If a file is not the result of a run.
        """
        files = (self.folder / setting.name).glob("seed*.json")
        return sorted((read_result(file) for file in files), key=lambda run: int(run["seed"]))

    def mean(self, setting: Setting, measure: Measure) -> Mean | None:
        """Return the mean of a setting's finished runs that didn't diverge; None if there is none."""
        return Mean.over([_value(run, measure) for run in self.runs(setting) if not run.get("diverged")])

    def diverged(self, cell: Cell) -> int:
        """Return the number of diverged runs of a cell's setting, which are excluded from its mean."""
        return 0 if cell.setting is None else sum(bool(run.get("diverged")) for run in self.runs(cell.setting))

    def entry(self, cell: Cell) -> tuple[Mean | None, bool | None]:
        """Return a cell's mean or difference, and whether it reaches the dense network.

        A difference has the standard error and the number of runs of the cell's own setting, as in the paper.
        """
        if cell.setting is None:
            return None, None
        mean = self.mean(cell.setting, cell.measure)
        if cell.base is not None:
            difference = self.difference(cell)
            return (None if mean is None or difference is None else replace(mean, value=difference.value)), None
        dense = None if cell.dense is None else self.mean(cell.dense, cell.measure)
        return mean, None if mean is None or dense is None else mean.reaches(dense, cell.measure)

    def difference(self, cell: Cell) -> Mean | None:
        """Return a cell's difference from its base, with its standard error; None if there is no base or no run."""
        if cell.setting is None or cell.base is None:
            return None
        mean, base = self.mean(cell.setting, cell.measure), self.mean(cell.base, cell.measure)
        return None if mean is None or base is None else mean.minus(base)


def _value(run: dict[str, Any], measure: Measure) -> float:
    if measure == "error":
        return 100 - 100 * float(run["metrics"]["accuracy"])
    return 100 * float(run["metrics"][measure])
