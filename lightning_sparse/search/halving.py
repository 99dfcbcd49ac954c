"""Asynchronous successive halving: most trials train a little, and the best of them further.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (2020, arXiv 1810.05934), algorithm 2: a trial is
promoted as soon as it is in the best part of its rung, without waiting for the whole rung.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_sparse.search.trials import Score, Trial
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import check_integer


@dataclass(frozen=True)
class Rungs:
    """Numbers of epochs after which trials are compared.

    Attributes:
        epochs: Number of epochs of a whole training.
        reduction: Factor >= 2 between the epochs of neighbouring rungs; the best of as many trials is promoted.
        count: Number of rungs, >= 1; with 1, every trial is trained in full.

    Raises:
        ValueError: If a number is out of range, or there are fewer epochs than rungs need.
    """

    epochs: int
    reduction: int = 3
    count: int = 3

    def __post_init__(self) -> None:
        check_integer(self.reduction, 2, expected="a reduction >= 2", cure="3")
        check_integer(self.count, 1, expected="a number of rungs >= 1", cure="3, or 1 to train every trial in full")
        if self.epochs < self.reduction ** (self.count - 1):
            raise InvalidValueError(
                expected=f"at least {self.reduction ** (self.count - 1)} epochs for {self.count} rungs",
                got=self.epochs,
                cure="more epochs, or fewer rungs",
            )

    @property
    def lengths(self) -> list[int]:
        """Number of epochs of each rung, the last of which is a whole training.

        >>> Rungs(60).lengths
        [7, 20, 60]
        """
        return [round(self.epochs / self.reduction**left) for left in range(self.count - 1, -1, -1)]

    def promoted(self, scores: Mapping[Trial, Sequence[float]], running: Sequence[Trial] = ()) -> Trial | None:
        """Return a trial to train further: among the best of its rung, from the highest rung that has one.

        Args:
            scores: Values of each trial at the rungs that it has reached, the larger the better. Failed ones are left
                out.
            running: Trials that train.
        """
        for rung in range(self.count - 2, -1, -1):
            there = [trial for trial, values in scores.items() if len(values) > rung]
            best = sorted(there, key=lambda trial: (-scores[trial][rung], trial.number))
            for trial in best[: len(there) // self.reduction]:
                if len(scores[trial]) == rung + 1 and trial not in running:
                    return trial
        return None


def score(values: Sequence[float]) -> Score:
    """Return the score of a trial from its values at the rungs that it has reached."""
    return Score(len(values) - 1, values[-1])
