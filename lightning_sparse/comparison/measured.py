"""Pairs of a study that are finished, read from their result files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning_sparse.comparison.paired_tests import Shift, SignedRankTest, hodges_lehmann, signed_rank_test
from lightning_sparse.comparison.study import SIDES, Cell, PairMember, SameCapacityStudy, Side
from lightning_sparse.experiments.results import read_training

# Names of norms in result files, as they are measured at epochs spread over a run.
NORMS = ("egf_l1", "egf_l2", "l1", "l2")


@dataclass(frozen=True)
class Pair:
    """Both results of a width and a seed.

    Attributes:
        width: Width of the dense network.
        seed: Seed of both.
        dense: Content of the dense network's result file.
        sparse: Content of the sparse network's result file.
    """

    width: float
    seed: int
    dense: dict[str, Any]
    sparse: dict[str, Any]

    @property
    def diverged(self) -> bool:
        """Whether a network has weights that are not finite, so that it classifies nothing."""
        return bool(self.dense["diverged"] or self.sparse["diverged"])

    @property
    def difference(self) -> int:
        """Correctly classified test images of the sparse network minus those of the dense one."""
        return int(self.sparse["correct"]) - int(self.dense["correct"])


@dataclass(frozen=True)
class CellResult:
    """What the pairs of a cell say.

    Attributes:
        cell: Configuration that the pairs have in common.
        pairs: Finished pairs.
    """

    cell: Cell
    pairs: Sequence[Pair]

    @property
    def whole(self) -> list[Pair]:
        """Pairs of which both networks are finite, which are those that are tested."""
        return [pair for pair in self.pairs if not pair.diverged]

    @property
    def diverged(self) -> int:
        """Number of pairs with a network that is not finite."""
        return len(self.pairs) - len(self.whole)

    @cached_property
    def test(self) -> SignedRankTest:
        """Test of whether the sparse networks classify more images correctly."""
        return signed_rank_test([pair.difference for pair in self.whole])

    @cached_property
    def shift(self) -> Shift:
        """By how many percentage points the sparse networks are better, with its 95 % interval."""
        return hodges_lehmann([100 * pair.difference / pair.dense["images"] for pair in self.whole])

    def accuracy(self, side: Side, width: float | None = None) -> list[float]:
        """Return the test accuracies of one side in percent, of all widths or of one."""
        chosen = [pair for pair in self.whole if width in (None, pair.width)]
        results = [pair.dense if side == "dense" else pair.sparse for pair in chosen]
        return [100 * result["correct"] / result["images"] for result in results]

    def flow(self, side: Side, norm: str) -> list[list[float]]:
        """Return a norm at the measured epochs, for each network of one side."""
        results = [pair.dense if side == "dense" else pair.sparse for pair in self.whole]
        return [[float(record[norm]) for record in result["gradient_flow"]] for result in results]


class MeasuredStudy:
    """A study with the results that there are.

    Args:
        study: The study.
        results: Folder of the results.

    Raises:
        ValueError: If a result file is damaged, or is that of another protocol.
    """

    def __init__(self, study: SameCapacityStudy, results: Path) -> None:
        self.study, self._results = study, results
        self.cells = [result for cell in study.cells() if (result := self._result(cell)).pairs]

    def _result(self, cell: Cell) -> CellResult:
        found = []
        for seed in range(self.study.seeds):
            for width in self.study.widths:
                dense, sparse = (self._read(self.study.training(cell, width, seed, side)) for side in SIDES)
                if dense is not None and sparse is not None:
                    found.append(Pair(width, seed, dense, sparse))
        return CellResult(cell, found)

    def _read(self, training: PairMember) -> dict[str, Any] | None:
        file = self._results / f"{training.path}.json"
        if not file.exists():
            return None
        return read_training(file, training, {"correct", "images", "test_loss", "gradient_flow"}, "study")


def mean_flow(result: dict[str, Any], norm: str) -> float:
    """Return the mean of a norm over the measured epochs of a run, as the paper averages it."""
    return fmean(record[norm] for record in result["gradient_flow"])
