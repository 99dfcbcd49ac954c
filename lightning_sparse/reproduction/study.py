"""Tables and figures of a paper as data: published numbers, and the settings that reproduce them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from lightning_sparse.experiments.setting import Setting

Measure = Literal["error", "accuracy", "accuracy_top5"]

# Published result files have all decimals of a float; more than these mean nothing for a test set of 10,000 images.
_DECIMALS = 4


@dataclass(frozen=True)
class Published:
    """A published number in percent, with its decimals.

    Attributes:
        text: Mean and, if published, standard error: "1.53 +- 0.020", "2.0"; a difference has a sign.

    >>> Published("1.53 +- 0.020").error
    0.02
    """

    text: str

    @property
    def parts(self) -> tuple[str, str | None]:
        """Mean and standard error, as text."""
        mean, _, error = self.text.partition(" +- ")
        return mean, error or None

    @property
    def value(self) -> float:
        """The mean."""
        return float(self.parts[0])

    @property
    def error(self) -> float | None:
        """Its standard error, None where none was published."""
        error = self.parts[1]
        return None if error is None else float(error)

    @property
    def shown(self) -> str:
        """The text with at most four decimals.

        >>> Published("97.74096 +- 0.07068877551").shown
        '97.7410 +- 0.0707'
        """
        return " +- ".join(_short(part) for part in self.parts if part is not None)


def _short(number: str) -> str:
    decimals = len(number.partition(".")[2])
    return number if decimals <= _DECIMALS else f"{Decimal(number):.{_DECIMALS}f}"


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        weights: Active weights in percent.
        published: The published number, or None where there is none.
        setting: Setting that reproduces it; None for numbers of other methods.
        dense: Setting of the dense network to compare with.
        base: Setting from which the number is a difference.
        measure: Measured quantity.
    """

    weights: float
    published: Published | None = None
    setting: Setting | None = None
    dense: Setting | None = None
    base: Setting | None = None
    measure: Measure = "error"


@dataclass(frozen=True)
class Study:
    """A table or figure.

    Attributes:
        title: Title, with the number in the paper.
        rows: Label and cells by column, in the paper's order.
        seeds: Default number of runs of each setting: the paper's, or fewer where they would take too long.
        note: Remarks on comparing with the published numbers; printed under the table.
        curve: Scale of the axis if it is drawn over the percentage of weights; None: it is drawn row by row.
    """

    title: str
    rows: Sequence[tuple[str, dict[str, Cell]]]
    seeds: int
    note: str = ""
    curve: Literal["linear", "log"] | None = None

    @property
    def columns(self) -> list[str]:
        """The columns, in the order of their first use."""
        return list(dict.fromkeys(column for _, cells in self.rows for column in cells))

    def settings(self) -> list[Setting]:
        """Return every setting once, in the order of the rows, including those that cells are compared with."""
        cells = [cell for _, row in self.rows for cell in row.values() if cell.setting is not None]
        return list(dict.fromkeys(s for cell in cells for s in (cell.setting, cell.dense, cell.base) if s is not None))


def variant(config: str, **changes: str | float) -> Setting:
    """Return a configuration with changed options, by the short names in `OPTIONS`."""
    return Setting(config, tuple(sorted(changes.items())))


def measured_cell(config: str, weights: float, published: str | None, measure: Measure = "error") -> Cell:
    """Return a cell for `<config>_<weights>`, compared with `<config>_dense`; the dense network itself for 100 %."""
    dense = Setting(f"{config}_dense")
    number = None if published is None else Published(published)
    if weights == 100:
        return Cell(weights, number, dense, measure=measure)
    return Cell(weights, number, Setting(f"{config}_{weights:g}"), dense, measure=measure)


def published_cell(weights: float, published: str, measure: Measure = "error") -> Cell:
    """Return a cell for a published number that no setting reproduces."""
    return Cell(weights, Published(published), measure=measure)
