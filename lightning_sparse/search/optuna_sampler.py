"""Samplers of Optuna, which keep trials in a database: a tree-structured Parzen estimator (TPE), CMA-ES with margin.

The extra `search` has what they need. For PostgreSQL install `psycopg[binary]`, too.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Literal, get_args

from lightning_sparse.search.spaces import Genotype, Space
from lightning_sparse.search.trials import Sampler, Score, Trial
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError, MissingPackageError

try:
    import cmaes  # noqa: F401  # Optuna imports it when it samples, too late for an error
    import optuna
except ModuleNotFoundError as error:
    raise MissingPackageError(
        expected="the packages `optuna` and `cmaes` for the samplers tpe and cma_es",
        got=str(error),
        cure="pip install 'lightning_sparse[search]'",
        name=error.name,
    ) from error

from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

Kind = Literal["tpe", "cma_es"]
# Attribute of a trial that nobody asked for: the number of the one whose score it has.
_STANDS_FOR = "stands for trial"


class OptunaSampler(Sampler):
    """Chooses trials by a model of Optuna, which learns from what trials reach at the first rung.

    One process at a time may use a study. It can be killed at any moment: a sampler with the same storage resumes the
    study, if it is told all scores again, which the study may have already. Trial k is the k-th trial of the study that
    was asked for and has all its parameters.

    Args:
        space: Space that is searched. Each of its choices is a parameter, the index of the option.
        kind: "tpe", multivariate and with a constant liar, which makes trials at the same time differ; or "cma_es",
            with margin, which keeps all options of a choice possible (Hamano et al., GECCO 2022).
        seed: Seed of the choices.
        storage: URL of the database: "sqlite:///FILE", which must not be on a network's file system, or
            "postgresql://USER:PASSWORD@HOST/DATABASE". None: in memory.
        study: Name of the study in the database.

    Raises:
        ValueError: If the kind is unknown.
        RuntimeError: If the database can't be used, or has a study of something else by that name.
        ModuleNotFoundError: If a driver of the database is missing.
    """

    def __init__(
        self, space: Space, kind: Kind = "tpe", seed: int = 0, storage: str | None = None, study: str = "search"
    ) -> None:
        if kind not in get_args(Kind):
            raise InvalidValueError(
                expected=f"a kind among {', '.join(get_args(Kind))}", got=repr(kind), cure="check the spelling"
            )
        self._kind, self._seed = kind, seed
        self._place = f"study {study!r} in {'memory' if storage is None else _shown(storage)}"
        self._distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, len(options) - 1) for name, options in space.choices.items()
        }
        self._study = _open(storage, study, self._place)
        self._check_study()

    def __repr__(self) -> str:
        choices = len(self._distributions)
        return f"OptunaSampler(kind={self._kind!r}, seed={self._seed}: {choices} choices, {self._place})"

    def _check_study(self) -> None:
        """Raise an error if the study is one of another space, or of another program."""
        trials = self._study.get_trials(deepcopy=False)
        fits = all(
            trial.distributions.items() <= self._distributions.items()
            and (trial.state != TrialState.COMPLETE or len(trial.distributions) == len(self._distributions))
            for trial in trials
        )
        if not fits or self._study.directions != [StudyDirection.MAXIMIZE]:
            raise InvalidStateError(
                expected=f"trials of the choices {', '.join(self._distributions)} in {self._place}",
                got="others",
                cure="another name for the search, or another database",
            )

    def ask(self, number: int, wanted: Genotype | None = None) -> Genotype:
        """Return the genotype that the model chooses, or the one that is wanted.

        If the study has the trial already, as a process was killed when it had asked, its genotype is returned.

        Raises:
            RuntimeError: If the study has other trials than those before.
        """
        asked = self._asked()
        if number == len(asked) - 1 and asked[number].state == TrialState.RUNNING:
            return self._genotype(asked[number])
        if number != len(asked):
            raise self._mismatch(f"{number} trials", len(asked))
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.params.keys() != self._distributions.keys():  # a process was killed while it asked
                self._study.tell(trial.number, state=TrialState.FAIL)
        if wanted is not None:
            self._add(wanted, state=TrialState.RUNNING)
            return wanted
        # A sampler that is made again begins its random numbers again: each trial has a seed of its own.
        self._study.sampler = _make_sampler(self._kind, f"{self._kind} {self._seed} {number}")
        chosen = self._study.ask(self._distributions).params
        return tuple(chosen[name] for name in self._distributions)

    def tell(self, trial: Trial, score: Score | None) -> None:
        """Take note of a trial's score at the first rung; of those at later ones, for whoever reads the study.

        A score that isn't finite is that of a failed trial. A trial that was told before stays as it is, unless it
        failed then and has a score now.

        Raises:
            RuntimeError: If the study has no such trial.
        """
        asked = self._asked()
        if trial.number >= len(asked):
            raise self._mismatch(f"trial {trial.number}", len(asked))
        known = asked[trial.number]
        if score is None or not isfinite(score.value):
            if known.state == TrialState.RUNNING:
                self._study.tell(known.number, state=TrialState.FAIL)
        elif score.rung > 0:
            # The model must not compare trainings of different lengths, and a finished trial takes no attributes.
            self._study.set_user_attr(f"trial {trial.number}, rung {score.rung}", score.value)
        elif self._genotype(known) != trial.genotype or known.state == TrialState.FAIL:
            self._stand_in(known, trial, score)
        elif known.state == TrialState.RUNNING:
            self._study.tell(known.number, score.value)

    def _stand_in(self, known: FrozenTrial, trial: Trial, score: Score) -> None:
        """Add a trial with the score of one that failed before, or that was changed after it had been asked for."""
        if known.state == TrialState.COMPLETE:
            raise self._mismatch(f"trial {trial.number} with options {list(trial.genotype)}", self._genotype(known))
        if all(each.user_attrs.get(_STANDS_FOR) != trial.number for each in self._study.get_trials(deepcopy=False)):
            # CMA-ES counts a generation by the attributes of its trials.
            attributes = known.system_attrs
            self._add(trial.genotype, value=score.value, stands_for=trial.number, system_attrs=attributes)
        if known.state == TrialState.RUNNING:
            self._study.tell(known.number, state=TrialState.FAIL)

    def _add(
        self,
        genotype: Genotype,
        state: TrialState = TrialState.COMPLETE,
        value: float | None = None,
        stands_for: int | None = None,
        system_attrs: Mapping[str, object] | None = None,
    ) -> None:
        """Add a trial to the study, with all of its parameters or not at all."""
        self._study.add_trial(
            create_trial(
                state=state,
                value=value,
                params=dict(zip(self._distributions, genotype, strict=True)),
                distributions=self._distributions,
                user_attrs={} if stands_for is None else {_STANDS_FOR: stands_for},
                system_attrs=dict(system_attrs or {}),
            )
        )

    def _asked(self) -> list[FrozenTrial]:
        """Return the trials that were asked for, in the order of their numbers."""
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False)
            if trial.params.keys() == self._distributions.keys() and _STANDS_FOR not in trial.user_attrs
        ]

    def _genotype(self, trial: FrozenTrial) -> Genotype:
        return tuple(trial.params[name] for name in self._distributions)

    def _mismatch(self, expected: str, got: object) -> InvalidStateError:
        return InvalidStateError(
            expected=f"{expected} in {self._place}, as in the folder of the search",
            got=got,
            cure="use folder and database that belong together, or begin again with another name for the search",
        )


def _make_sampler(kind: Kind, seed: str) -> BaseSampler:
    number = random.Random(seed).getrandbits(31)
    if kind == "tpe":
        return TPESampler(multivariate=True, constant_liar=True, seed=number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the margin is called experimental
        # The first trial, and one after others that were wanted, may be drawn without the model.
        return CmaEsSampler(with_margin=True, warn_independent_sampling=False, seed=number)


def _shown(url: str) -> str:
    """Return a URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError):
        return "a database"  # what can't be read may have a password anywhere


def _open(url: str | None, name: str, place: str) -> Study:
    """Return the study of a name, which is made if there is none.

    Raises:
        RuntimeError: If the database can't be used.
        ModuleNotFoundError: If a driver of the database is missing.
    """
    try:
        with _without_information():
            return optuna.create_study(
                storage=_storage(url), study_name=name, direction=StudyDirection.MAXIMIZE, load_if_exists=True
            )
    except ImportError as error:
        raise MissingPackageError(
            expected=f"the driver of the database for {place}",
            got=str(error.__cause__ or error),
            cure="pip install 'psycopg[binary]' for a URL that begins with postgresql://",
            name=getattr(error.__cause__, "name", None),
        ) from error
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        raise InvalidStateError(
            expected=f"a database that can be used for {place}",
            got=str(error).partition("\n")[0],
            cure="start its server, or correct the URL: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE",
        ) from error


def _storage(url: str | None) -> BaseStorage:
    if url is None:
        return InMemoryStorage()
    if url.startswith("postgresql://"):  # which driver this means depends on SQLAlchemy's version
        url = url.replace("postgresql", "postgresql+psycopg", 1)
    # A training may take longer than a server keeps an idle connection: each transaction has its own.
    return RDBStorage(url, engine_kwargs={"poolclass": NullPool})


@contextmanager
def _without_information() -> Iterator[None]:
    """Keep Optuna from announcing the study, as the search does so; its verbosity is the user's again afterwards."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
