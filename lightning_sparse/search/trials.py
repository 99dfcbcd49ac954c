"""What was tried in a search, in a file that survives the search, and the samplers that choose what is tried next."""

from __future__ import annotations

import json
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lightning_sparse.search.spaces import Genotype, Space
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import ShowsOptions


@dataclass(frozen=True)
class Trial:
    """Densities that are tried.

    Attributes:
        number: Number of the trial, from 0 on.
        genotype: The chosen options.
    """

    number: int
    genotype: Genotype


@dataclass(frozen=True, order=True)
class Score:
    """What a trial has reached, of which the largest is the best: those that trained longer come first.

    Attributes:
        rung: Number of the rung that it has reached, from 0 on.
        value: Value of the objective there, the larger the better.
    """

    rung: int
    value: float


class Sampler(ABC):
    """Chooses trials, one after the other, by the scores of those before.

    A sampler depends on its seed and on what it was told only: told the same in the same order, it asks for the same.
    """

    @abstractmethod
    def ask(self, number: int, wanted: Genotype | None = None) -> Genotype:
        """Return the genotype of the next trial.

        Args:
            number: Number of the trial, the count of those before.
            wanted: Genotype that is tried in any case, which it then returns.
        """

    @abstractmethod
    def tell(self, trial: Trial, score: Score | None) -> None:
        """Take note of what a trial has reached; None if it failed."""


class RandomSampler(ShowsOptions, Sampler):
    """Chooses every option of every choice with the same probability, whatever it is told.

    Args:
        space: Space that is searched.
        seed: Seed of the choices.
    """

    def __init__(self, space: Space, seed: int = 0) -> None:
        self._space, self._seed = space, seed

    def ask(self, number: int, wanted: Genotype | None = None) -> Genotype:
        """Return a random genotype, which depends on seed and number only; or the one that is wanted."""
        if wanted is not None:
            return wanted
        source = random.Random(f"{self._seed} {number}")
        return tuple(source.randrange(len(options)) for options in self._space.choices.values())

    def tell(self, trial: Trial, score: Score | None) -> None:
        """Do nothing."""


class MutationSampler(ShowsOptions, Sampler):
    """Changes some choices of one of the best trials, each by a step or two or to any option; the first are random.

    Args:
        space: Space that is searched.
        seed: Seed of the choices.
        share: Share of the choices that a mutation changes, in (0, 1]; one at least.
        parents: Number of best trials of which each mutation picks one.
        first: Number of random trials before the first mutation.
    """

    def __init__(self, space: Space, seed: int = 0, share: float = 0.2, parents: int = 4, first: int = 8) -> None:
        self._space, self._seed, self._share = space, seed, share
        self._parents, self._first = parents, first
        self._random = RandomSampler(space, seed)
        self._scores: dict[Trial, Score] = {}

    def ask(self, number: int, wanted: Genotype | None = None) -> Genotype:
        """Return the wanted genotype, or a mutation of one of the best trials, if possible one that was not told."""
        if wanted is not None:
            return wanted
        if number < self._first or not self._scores:
            return self._random.ask(number)
        source = random.Random(f"mutation {self._seed} {number}")
        best = sorted(self._scores, key=lambda trial: (self._scores[trial], -trial.number), reverse=True)
        known = {trial.genotype for trial in self._scores}
        for _ in range(20):
            child = self._mutated(source.choice(best[: self._parents]).genotype, source)
            if child not in known:
                break
        return child

    def _mutated(self, genotype: Genotype, source: random.Random) -> Genotype:
        options = [len(each) for each in self._space.choices.values()]
        changed = list(genotype)
        movable = [index for index, count in enumerate(options) if count > 1]
        for index in source.sample(movable, min(len(movable), max(1, round(self._share * len(options))))):
            others = [option for option in range(options[index]) if option != changed[index]]
            near = [option for option in others if abs(option - changed[index]) <= 2]
            changed[index] = source.choice(source.choice([near, others]))
        return tuple(changed)

    def tell(self, trial: Trial, score: Score | None) -> None:
        """Take note of a trial's score, or forget it."""
        if score is None:  # it may have a score of a shorter training
            self._scores.pop(trial, None)
        else:
            self._scores[trial] = score


def default_sampler(choices: int) -> Literal["tpe", "mutation"]:
    """Return the name of the sampler for a number of choices.

    By a comparison on a synthetic objective with 64 trials, TPE finds most with few densities, mutation with more; with
    more than 15 densities no sampler finds in 64 trials what a power law in the layers' sizes has: search that.

    >>> default_sampler(3), default_sampler(10)
    ('tpe', 'mutation')
    """
    return "tpe" if choices <= 5 else "mutation"


@dataclass
class TrialLog:
    """The trials of a search in a file, a line each, written before a trial begins.

    Attributes:
        file: The file; it is made with the first trial.
    """

    file: Path
    _trials: list[Trial] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if not self.file.exists():
            return
        text = self.file.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a search that was killed while it wrote; the trial had not begun
            os.truncate(self.file, len(whole.encode()))
        self._trials = [_read(line, self.file) for line in whole.splitlines()]
        if [trial.number for trial in self._trials] != list(range(len(self._trials))):
            raise InvalidValueError(
                expected=f"trials 0, 1, 2, ... in {self.file}",
                got="another order",
                cure="let one search at a time write to a folder",
            )

    @property
    def trials(self) -> Sequence[Trial]:
        """All trials, in the order of their numbers."""
        return tuple(self._trials)

    def add(self, genotype: Genotype) -> Trial:
        """Write and return the next trial."""
        trial = Trial(len(self._trials), genotype)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as log:
            log.write(json.dumps({"number": trial.number, "genotype": trial.genotype}) + "\n")
        self._trials.append(trial)
        return trial


def _read(line: str, file: Path) -> Trial:
    try:
        entry = json.loads(line)
        return Trial(int(entry["number"]), tuple(map(int, entry["genotype"])))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidValueError(
            expected=f"the trials of a search, a line of JSON each, in {file}",
            got=f"something else ({error!r})",
            cure="mend the line, or give the search another folder",
        ) from error
