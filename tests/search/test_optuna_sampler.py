"""Samplers of Optuna: what they choose, and that a killed search resumes, with SQLite and PostgreSQL alike."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from postgresql_server import server, why_no_server
from sqlalchemy.pool import NullPool

import lightning_sparse
from lightning_sparse.search.optuna_sampler import Kind, OptunaSampler
from lightning_sparse.search.spaces import LayerDensities
from lightning_sparse.search.trials import RandomSampler, Sampler, Score, Trial

SPACE = LayerDensities({"first": 100, "second": 100, "third": 100})
IDEAL = (3, 16, 8)
KINDS: list[Kind] = ["tpe", "cma_es"]
RUNNING, COMPLETE, FAIL = TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL


def objective(trial: Trial) -> float:
    return -float(sum((option - ideal) ** 2 for option, ideal in zip(trial.genotype, IDEAL, strict=True)))


def run(sampler: Sampler, trials: int, begin: int = 0) -> list[Trial]:
    found = []
    for number in range(begin, trials):
        found.append(Trial(number, sampler.ask(number)))
        sampler.tell(found[-1], Score(0, objective(found[-1])))
    return found


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    if reason := why_no_server():
        pytest.skip(reason)
    with server() as url:
        yield url


def in_file(folder: Path) -> dict[str, Any]:
    return {"storage": f"sqlite:///{folder / 'optuna.db'}", "study": "one"}


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Return where a study is: the options of a sampler."""
    if request.param == "sqlite":
        return in_file(tmp_path)
    return {"storage": request.getfixturevalue("postgresql"), "study": request.node.name}


def load(place: dict[str, Any]) -> optuna.Study:
    url = place["storage"].replace("postgresql://", "postgresql+psycopg://")
    storage = RDBStorage(url, engine_kwargs={"poolclass": NullPool})  # no connection stays open
    return optuna.load_study(storage=storage, study_name=place["study"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_depends_on_its_seed_and_what_it_was_told_only(kind: Kind) -> None:
    trials = run(OptunaSampler(SPACE, kind, seed=3), 24)
    assert all(0 <= option < 20 for trial in trials for option in trial.genotype)
    assert len({trial.genotype for trial in trials[:8]}) == 8
    assert run(OptunaSampler(SPACE, kind, seed=3), 24) == trials
    # Neighbouring seeds must not share trials that are shifted by one.
    others = run(OptunaSampler(SPACE, kind, seed=4), 8)
    assert not {trial.genotype for trial in others} & {trial.genotype for trial in trials[:8]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_finds_what_random_choices_do_not(kind: Kind) -> None:
    def best(sampler: Sampler) -> float:
        return max(map(objective, run(sampler, 64)))

    by_chance = statistics.median(best(RandomSampler(SPACE, seed)) for seed in range(15))
    assert min(best(OptunaSampler(SPACE, kind, seed)) for seed in range(2)) > by_chance


@pytest.mark.parametrize("kind", KINDS)
def test_a_choice_may_have_one_option(kind: Kind) -> None:
    sampler = OptunaSampler(LayerDensities({"a": 10, "b": 10}, (0.5,)), kind)
    for number in range(14):
        assert sampler.ask(number) == (0, 0)
        sampler.tell(Trial(number, (0, 0)), Score(0, 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wanted_is_returned_and_learned_from(kind: Kind) -> None:
    sampler = OptunaSampler(SPACE, kind)
    for number in range(12):
        assert sampler.ask(number, wanted=(number, 0, 19)) == (number, 0, 19)
        sampler.tell(Trial(number, (number, 0, 19)), Score(0, float(number)))
    assert all(0 <= option < 20 for trial in run(sampler, 24, begin=12) for option in trial.genotype)


@pytest.mark.parametrize("seed", [0, 2])
def test_trials_at_the_same_time_differ(seed: int) -> None:
    sampler = OptunaSampler(SPACE, seed=seed)
    run(sampler, 20)
    assert len({sampler.ask(number) for number in range(20, 36)}) == 16  # 13 and 12 without a constant liar


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_that_resumes_chooses_what_it_would_have_chosen(kind: Kind, place: dict[str, Any]) -> None:
    whole = run(OptunaSampler(SPACE, kind), 15)
    first = run(OptunaSampler(SPACE, kind, **place), 12)
    again = OptunaSampler(SPACE, kind, **place)
    for trial in first:
        again.tell(trial, Score(0, objective(trial)))
    assert first + run(again, 15, begin=12) == whole


def test_a_search_that_is_killed_anywhere_has_each_trial_once(place: dict[str, Any]) -> None:
    sampler = OptunaSampler(SPACE, **place)
    genotypes = [sampler.ask(0), sampler.ask(1, wanted=(1, 2, 3))]
    sampler.tell(Trial(0, genotypes[0]), Score(0, 0.25))
    load(place).ask()  # killed before it had a parameter
    load(place).ask({"first": IntDistribution(0, 19)})  # with one of three
    sampler = OptunaSampler(SPACE, **place)
    genotypes.append(sampler.ask(2))  # killed before it was written down: it is asked for again
    sampler = OptunaSampler(SPACE, **place)
    assert sampler.ask(2) == genotypes[2]
    sampler.tell(Trial(1, genotypes[1]), Score(0, 0.5))
    sampler.tell(Trial(2, genotypes[2]), Score(0, 0.75))
    trials = load(place).trials
    assert [trial.state for trial in trials] == [COMPLETE, COMPLETE, FAIL, FAIL, COMPLETE]
    assert [(tuple(trial.params.values()), trial.value) for trial in trials if trial.state == COMPLETE] == [
        (genotype, value) for genotype, value in zip(genotypes, (0.25, 0.5, 0.75), strict=True)
    ]


def test_scores_that_are_told_again_change_nothing_and_those_of_later_rungs_are_written_beside(
    place: dict[str, Any],
) -> None:
    sampler = OptunaSampler(SPACE, **place)
    trials = [Trial(number, sampler.ask(number)) for number in range(3)]
    for told in (sampler, OptunaSampler(SPACE, **place)):
        for trial, score in zip(trials, (Score(0, 0.1), None, Score(0, 0.2)), strict=True):
            told.tell(trial, score)
        told.tell(trials[2], Score(1, 0.9))
        told.tell(trials[2], Score(2, float("nan")))
        told.tell(trials[2], None)  # its longest training failed
    assert [(trial.state, trial.value) for trial in load(place).trials] == [
        (COMPLETE, 0.1),
        (FAIL, None),
        (COMPLETE, 0.2),
    ]
    assert load(place).user_attrs == {"trial 2, rung 1": 0.9}


def test_a_later_rung_of_a_trial_without_a_first_one_leaves_it_running(tmp_path: Path) -> None:
    place = in_file(tmp_path)
    sampler = OptunaSampler(SPACE, **place)
    sampler.tell(Trial(0, sampler.ask(0)), Score(1, 0.9))
    assert [trial.state for trial in load(place).trials] == [RUNNING]


def test_a_score_that_is_not_finite_is_that_of_a_failed_trial(tmp_path: Path) -> None:
    place = in_file(tmp_path)
    sampler = OptunaSampler(SPACE, **place)
    for number, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        sampler.tell(Trial(number, sampler.ask(number)), Score(0, value))
    assert [trial.state for trial in load(place).trials] == [FAIL] * 3


def test_a_failed_trial_that_is_repeated_and_one_that_was_changed_have_their_scores(place: dict[str, Any]) -> None:
    for start in range(3):
        sampler = OptunaSampler(SPACE, **place)
        for number in range(2 if start == 0 else 0):
            sampler.ask(number, wanted=(number, 0, 0))
        sampler.tell(Trial(0, (0, 0, 0)), Score(0, 0.5) if start else None)
        sampler.tell(Trial(1, (1, 7, 7)), Score(0, 0.75))
    assert sampler.ask(2, wanted=(2, 0, 0)) == (2, 0, 0)
    found = sorted(
        (tuple(trial.params.values()), trial.value) for trial in load(place).trials if trial.state == COMPLETE
    )
    assert found == [((0, 0, 0), 0.5), ((1, 7, 7), 0.75)]
    assert [trial.state for trial in load(place).trials].count(FAIL) == 2


def test_cma_es_learns_from_trials_that_were_changed() -> None:
    early: list[float] = []
    late: list[float] = []
    for seed in range(3):
        sampler, found = OptunaSampler(SPACE, "cma_es", seed), []
        for number in range(48):
            first, second, third = sampler.ask(number)
            found.append(-float((first - 3) ** 2 + (second - 16) ** 2))
            sampler.tell(Trial(number, (first, second, (third + 1) % 20)), Score(0, found[-1]))
        early, late = early + found[:16], late + found[-16:]
    assert statistics.mean(late) > 0.6 * statistics.mean(early)


def test_a_folder_and_a_study_that_do_not_belong_together_are_an_error() -> None:
    sampler = OptunaSampler(SPACE, study="digits")
    with pytest.raises(
        RuntimeError, match=r"Expected 1 trials in study 'digits' in memory.*; got 0\. Cure: use folder"
    ):
        sampler.ask(1)
    with pytest.raises(RuntimeError, match=r"Expected trial 0 in study 'digits' in memory.*; got 0\. Cure: use folder"):
        sampler.tell(Trial(0, (0, 0, 0)), None)
    run(sampler, 2)
    for number in (0, 1):  # an empty folder, and one without the last trial, which has a score already
        with pytest.raises(RuntimeError, match=rf"Expected {number} trials in .*; got 2\. Cure: "):
            sampler.ask(number)
    with pytest.raises(RuntimeError, match=r"Expected trial 0 with options \[0, 0, 0\] in .*; got \(.*Cure: "):
        sampler.tell(Trial(0, (0, 0, 0)), Score(0, 0.5))


@pytest.mark.parametrize(
    ("direction", "high", "value"), [("minimize", 19, None), ("maximize", 9, None), ("maximize", 19, 0.5)]
)
def test_a_study_of_something_else_is_refused(
    direction: Literal["minimize", "maximize"], high: int, value: float | None, tmp_path: Path
) -> None:
    place = in_file(tmp_path)
    study = optuna.create_study(storage=place["storage"], study_name="one", direction=direction)
    study.tell(study.ask({"first": IntDistribution(0, high)}), value, FAIL if value is None else COMPLETE)
    with pytest.raises(RuntimeError, match=r"Expected trials of the choices first, second, third in study 'one' in sq"):
        OptunaSampler(SPACE, **place)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", r"Expected a database that can be used for study 'search' in a database; got .*Cure: start"),
        ("sqlite:////missing/folder/file.db", r"Expected a database .*file\.db; got .*unable to open.*Cure: start"),
        (
            "postgresql://me:secret@localhost:1/base",
            r"Expected a database .*me:\*\*\*@localhost:1/base; got .*Cure: start",
        ),
        (
            "nosuch://me:secret@localhost/base",
            r"Expected a database .*me:\*\*\*@localhost/base; got .*nosuch.*Cure: start",
        ),
        ("oracle://me:secret@localhost/base", r"Expected the driver .*base; got No module.*Cure: pip install"),
    ],
)
def test_a_database_that_can_not_be_used_is_an_error_without_the_password(url: str, message: str) -> None:
    with pytest.raises((RuntimeError, ModuleNotFoundError), match=message) as caught:
        OptunaSampler(SPACE, storage=url)
    assert "secret" not in str(caught.value)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected a kind among tpe, cma_es; got 'gp'\. Cure: check the spelling"):
        OptunaSampler(SPACE, "gp")  # type: ignore[arg-type]  # the very mistake


def test_the_text_of_a_sampler_is_one_line_without_the_password(tmp_path: Path) -> None:
    assert (
        repr(OptunaSampler(SPACE, seed=2)) == "OptunaSampler(kind='tpe', seed=2: 3 choices, study 'search' in memory)"
    )
    assert "3 choices, study 'search' in sqlite:///" in repr(
        OptunaSampler(SPACE, storage=f"sqlite:///{tmp_path / 'a'}")
    )


def test_optuna_reports_nothing_and_to_others_what_it_did(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = optuna.logging.get_verbosity()
    try:
        optuna.logging.set_verbosity(optuna.logging.INFO)
        optuna.logging._reset_library_root_logger()  # its handler has an older stream
        url = f"sqlite:///{tmp_path / 'optuna.db'}"
        for _ in range(2):
            OptunaSampler(SPACE, storage=url)
        run(OptunaSampler(SPACE, "cma_es"), 4)
        assert capsys.readouterr() == ("", "")
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
        optuna.create_study()
        assert "A new study created in memory" in capsys.readouterr().err
    finally:
        optuna.logging.set_verbosity(before)


@pytest.mark.parametrize("missing", ["optuna", "cmaes"])
def test_a_missing_package_is_named_with_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "lightning_sparse.search.optuna_sampler")
    with pytest.raises(ModuleNotFoundError, match=rf"{missing}.*pip install 'lightning_sparse\[search\]'") as caught:
        import_module("lightning_sparse.search.optuna_sampler")
    assert caught.value.name == missing


def test_other_modules_do_not_import_optuna_as_they_are_imported() -> None:
    importing = re.compile(r"^(from|import) .*(optuna|cmaes|sqlalchemy)", re.MULTILINE)
    modules = Path(lightning_sparse.__file__).parent.rglob("*.py")
    assert [path.name for path in modules if importing.search(path.read_text("utf-8"))] == ["optuna_sampler.py"]
