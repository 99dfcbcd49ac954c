"""One search over densities: which trial is trained next, and what each has reached."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_sparse.experiments.engine.finished import Finished
from lightning_sparse.experiments.results import read_training
from lightning_sparse.search.density_search import DensitySearch
from lightning_sparse.search.halving import score
from lightning_sparse.search.spaces import Genotype, Space
from lightning_sparse.search.template import Template
from lightning_sparse.search.trainings import RESULT, Architecture, SearchTraining
from lightning_sparse.search.trials import Sampler, Trial, TrialLog
from lightning_sparse.topology.density import allocate
from lightning_sparse.validation.errors import InvalidValueError

# Densities of the whole network at which a search begins with what one would try without it.
_KNOWN_DENSITIES = (0.1, 0.3, 0.6)
_MOST_STEPS, _HALVINGS = 1000, 20


@dataclass(frozen=True)
class Candidate:
    """A trial with what it has reached.

    Attributes:
        trial: The trial.
        densities: Density of each layer.
        counts: Number of active weights of each layer.
        values: The metric on the validation data at each rung that it has reached.
    """

    trial: Trial
    densities: Mapping[str, float]
    counts: Mapping[str, int]
    values: Sequence[float]

    @property
    def active(self) -> int:
        """Number of active weights."""
        return sum(self.counts.values())

    @property
    def reached(self) -> float:
        """The metric at the last rung that it has reached."""
        return self.values[-1]


class Trials:
    """The trials of a search: iterating returns trainings, None if one must end before the next can be chosen.

    What has been tried is read from the folder, so that a search continues where another process left it.

    Args:
        search: The search.
        template: Its template.
        space: Space of the densities.
        sampler: Chooses the trials.
        folder: Folder of the results of the search.
        part: Name of the folder of these trials in it.
        first: Genotypes that are tried first.
    """

    def __init__(
        self,
        search: DensitySearch,
        template: Template,
        space: Space,
        sampler: Sampler,
        folder: Path,
        part: str,
        first: Sequence[Genotype] = (),
    ) -> None:
        self._search, self._template, self.space, self._sampler = search, template, space, sampler
        self._folder, self._part = folder / part, part
        self._first = list(dict.fromkeys(map(self.within_bound, first)))
        self._log = TrialLog(self._folder / "trials.jsonl")
        self._values: dict[Trial, list[float]] = {}
        self._failed: set[Trial] = set()
        self._running: dict[str, Trial] = {}
        self._is_exhausted = False
        for trial in self._log.trials:
            self._read(trial)
        # Of trainings that were promoted and interrupted, the folders are there and the results aren't.
        self._interrupted = [
            (trial, len(values))
            for trial, values in self._values.items()
            if len(values) < search.rungs
            and self._is_within_bound(trial)
            and (folder.parent / self._training(trial, len(values)).path).is_dir()
        ]

    def _read(self, trial: Trial) -> None:
        """Take over what a trial has reached before."""
        for rung in range(self._search.rungs):
            file = self._folder.parent.parent / f"{self._training(trial, rung).path}.json"
            if not file.exists():
                return
            self._note(trial, rung, read_training(file, self._training(trial, rung), RESULT, "search"))

    def _note(self, trial: Trial, rung: int, result: Mapping[str, Any]) -> None:
        """Take note of a result, and tell the sampler."""
        if result["diverged"]:
            self._fail(trial)
            return
        reached = self._values.setdefault(trial, [])
        if len(reached) == rung:
            reached.append(float(result["value"]))
            if trial in (scores := self._scores):
                self._sampler.tell(trial, score(scores[trial]))

    @property
    def _scores(self) -> dict[Trial, list[float]]:
        """The objective of each trial at the rungs that it has reached."""
        total, found = self._template.total, {}
        for trial, values in self._values.items():
            if self._is_within_bound(trial):
                active = self._active(trial.genotype)
                found[trial] = [self._search.objective(value, active, total) for value in values]
        return found

    def _fail(self, trial: Trial) -> None:
        self._failed.add(trial)
        self._values.pop(trial, None)
        self._sampler.tell(trial, None)

    def __iter__(self) -> Iterator[SearchTraining | None]:
        while True:
            training = self._next()
            if training is None and not self._running:
                return
            yield training

    def _next(self) -> SearchTraining | None:
        """Return the next training, None if there is none now."""
        running = list(self._running.values())
        known = {*running, *self._values, *self._failed}
        if waiting := [trial for trial in self._log.trials if trial not in known and self._is_within_bound(trial)]:
            return self._start(waiting[0], 0)
        if self._interrupted:
            return self._start(*self._interrupted.pop(0))
        if promoted := self._search.halving.promoted(self._scores, running):
            return self._start(promoted, len(self._values[promoted]))
        if len(self._log.trials) < self._search.trials and (genotype := self._choose()) is not None:
            return self._start(self._log.add(genotype), 0)
        return None

    def _start(self, trial: Trial, rung: int) -> SearchTraining:
        training = self._training(trial, rung)
        self._running[training.path] = trial
        return training

    def _training(self, trial: Trial, rung: int) -> SearchTraining:
        lengths = self._search.halving.lengths
        return SearchTraining(
            self._search.name,
            self._part,
            f"trial{trial.number:03d}",
            Architecture(self._counts(trial.genotype)),
            self._search.seed,
            lengths[rung],
            continues=lengths[rung - 1] if rung else 0,
            protocol=self._search.protocol,
        )

    def ended(self, run: Finished[SearchTraining]) -> None:
        """Take note of a training that has ended."""
        trial = self._running.pop(run.training.path)
        if run.failure:
            self._fail(trial)
        else:
            self._note(trial, self._search.halving.lengths.index(run.training.epochs), run.result)

    def _choose(self) -> Genotype | None:
        """Return what is tried next, of which no two are the same network; None if nothing is left to try."""
        if self._is_exhausted:
            return None
        known = {self._network(trial.genotype) for trial in self._log.trials}
        wanted = [genotype for genotype in self._first if self._network(genotype) not in known]
        number = len(self._log.trials)
        genotype = self.within_bound(self._sampler.ask(number, *wanted[:1]))
        source = random.Random(f"another {self._search.seed} {number}")
        for _ in range(_MOST_STEPS):
            if self._network(genotype) not in known:
                return genotype
            genotype = self.within_bound(_step(genotype, self.space, source))
        self._is_exhausted = True
        return None

    def within_bound(self, genotype: Genotype) -> Genotype:
        """Return a genotype within the bound on active weights, for which all densities are lowered by one factor.

        Raises:
            ValueError: If the sparsest network of the space has more active weights.
        """
        bound = self._search.max_active
        if bound is None or self._active(genotype) <= bound:
            return genotype
        if (active := self._active(self.space.scaled(genotype, 0.0))) > bound:
            raise InvalidValueError(
                expected=f"a space with networks of at most {bound} active weights",
                got=f"{active} in the sparsest",
                cure="lower densities in the grid, or a larger max_active",
            )
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self._active(self.space.scaled(genotype, middle)) <= bound:
                low = middle
            else:
                high = middle
        return self.space.scaled(genotype, low)

    def _is_within_bound(self, trial: Trial) -> bool:
        """Tell whether a trial is within the bound, which may have been lowered since."""
        return self._search.max_active is None or self._active(trial.genotype) <= self._search.max_active

    def _counts(self, genotype: Genotype) -> dict[str, int]:
        return self._template.counts(self.space.densities(genotype))

    def _network(self, genotype: Genotype) -> tuple[int, ...]:
        return tuple(self._counts(genotype).values())

    def _active(self, genotype: Genotype) -> int:
        return sum(self._network(genotype))

    @property
    def candidates(self) -> list[Candidate]:
        """All trials within the bound that have reached a rung, in the order of their numbers."""
        return [
            Candidate(trial, self.space.densities(trial.genotype), self._counts(trial.genotype), tuple(values))
            for trial, values in sorted(self._values.items(), key=lambda item: item[0].number)
            if self._is_within_bound(trial)
        ]

    @property
    def best(self) -> Candidate | None:
        """The best of the trials that trained longest; None if none has ended."""
        scores = self._scores
        if not scores:
            return None
        chosen = max(scores, key=lambda trial: (score(scores[trial]), -trial.number))
        return next(candidate for candidate in self.candidates if candidate.trial == chosen)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of trials that have begun, that have reached the last rung, and that failed."""
        whole = sum(len(values) == self._search.rungs for values in self._values.values())
        return len(self._log.trials), whole, len(self._failed)

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of trials, which nobody continues any more."""
        for file in [*self._folder.rglob("*.ckpt"), *self._folder.rglob("*.half")]:
            file.unlink(missing_ok=True)


def known_genotypes(space: Space, template: Template) -> list[Genotype]:
    """Return what one would try without a search: the nearest to uniform and Erdos-Renyi-kernel densities."""
    shapes, found = list(template.shapes.values()), []
    for density in _KNOWN_DENSITIES:
        for distribution in ("uniform", "erdos_renyi_kernel"):
            counts = allocate(shapes, round(density * template.total), distribution)
            wanted = dict(zip(template.shapes, counts, strict=True))
            found.append(space.like({name: wanted[name] / size for name, size in template.sizes.items()}))
    return list(dict.fromkeys(found))


def _step(genotype: Genotype, space: Space, source: random.Random) -> Genotype:
    """Return a genotype with one choice changed."""
    options = [len(each) for each in space.choices.values()]
    movable = [index for index, count in enumerate(options) if count > 1]
    if not movable:
        return genotype
    index = source.choice(movable)
    return _with(genotype, index, source.choice([each for each in range(options[index]) if each != genotype[index]]))


def _with(genotype: Genotype, index: int, option: int) -> Genotype:
    return (*genotype[:index], option, *genotype[index + 1 :])
