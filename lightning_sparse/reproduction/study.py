"""What a table or figure of a paper is: published numbers, and the settings that measure them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from lightning_sparse.experiments.setting import Setting

Measure = Literal["error", "accuracy", "accuracy_top5"]

# Result files have as many decimals as a float has; more than these say nothing about a test set of 10,000 images.
_DECIMALS = 4


@dataclass(frozen=True)
class Published:
    """A number in percent as it was published, with its decimals.

    Attributes:
        text: Mean and, if there is one, standard error: "1.53 +- 0.020", "2.0"; of a difference with a sign.

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
        setting: What measures it here; None for what other methods published.
        dense: The dense network to compare with.
        base: The setting from which the published number is a difference.
        measure: What is measured.
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
        title: What it is, with its number in the paper.
        rows: Label and cells by column, in the paper's order.
        seeds: How many runs of each setting the paper has, or fewer where they would take too long.
        note: What to know when comparing with the published numbers; printed under the table.
        curve: Whether it is drawn over the percentage of weights, and on which scale of that.
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
        """Return every setting once, in the order of the rows; dense networks that cells compare with included."""
        cells = [cell for _, row in self.rows for cell in row.values() if cell.setting is not None]
        return list(dict.fromkeys(s for cell in cells for s in (cell.setting, cell.dense, cell.base) if s is not None))


def variant(config: str, **changes: str | float) -> Setting:
    """Return a configuration with changes, by the names of `OPTIONS`."""
    return Setting(config, tuple(sorted(changes.items())))


def measured_cell(config: str, weights: float, published: str | None, measure: Measure = "error") -> Cell:
    """Return a cell for `<config>_<weights>`, compared with `<config>_dense`; at 100 % for the latter."""
    dense = Setting(f"{config}_dense")
    number = None if published is None else Published(published)
    if weights == 100:
        return Cell(weights, number, dense, measure=measure)
    return Cell(weights, number, Setting(f"{config}_{weights:g}"), dense, measure=measure)


def published_cell(weights: float, published: str, measure: Measure = "error") -> Cell:
    """Return a cell for what others published and nothing here measures."""
    return Cell(weights, Published(published), measure=measure)
