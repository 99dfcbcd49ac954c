"""Samplers, the log of trials and successive halving, without any training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sparse.search.halving import Rungs, score
from lightning_sparse.search.spaces import LayerDensities
from lightning_sparse.search.trials import (
    MutationSampler,
    RandomSampler,
    Sampler,
    Score,
    Trial,
    TrialLog,
    default_sampler,
)

SPACE = LayerDensities({f"layer{index}": 100 for index in range(12)})


def run(sampler: Sampler, trials: int, begin: int = 0) -> list[Trial]:
    """Let a sampler find low densities."""
    found = []
    for number in range(begin, trials):
        trial = Trial(number, sampler.ask(number))
        sampler.tell(trial, Score(0, -float(sum(trial.genotype))))
        found.append(trial)
    return found


@pytest.mark.parametrize("kind", [RandomSampler, MutationSampler])
def test_a_sampler_that_is_told_the_same_asks_for_the_same(kind: Any) -> None:
    whole = run(kind(SPACE, seed=3), 30)
    again = kind(SPACE, seed=3)
    for trial in whole[:20]:
        again.tell(trial, Score(0, -float(sum(trial.genotype))))
    assert run(again, 30, begin=20) == whole[20:]
    assert run(kind(SPACE, seed=4), 30) != whole


def test_random_choices_are_even() -> None:
    sampler = RandomSampler(SPACE)
    counts = Counter(option for number in range(500) for option in sampler.ask(number))
    assert len(counts) == 20
    assert max(counts.values()) < 1.3 * min(counts.values())


def test_no_two_trials_of_a_search_are_the_same() -> None:
    trials = run(MutationSampler(SPACE), 60)
    assert len({trial.genotype for trial in trials}) == 60


def test_a_mutation_changes_some_choices_of_one_of_the_best() -> None:
    sampler = MutationSampler(SPACE, share=0.25, parents=2, first=8)
    trials = run(sampler, 8)
    best = sorted(trials, key=lambda trial: sum(trial.genotype))[:2]
    steps = []
    for number in range(8, 60):
        child = sampler.ask(number)
        assert all(0 <= option < 20 for option in child)
        changes = [[abs(a - b) for a, b in zip(child, parent.genotype, strict=True)] for parent in best]
        assert 3 in [sum(map(bool, change)) for change in changes]
        steps += [step for change in changes if sum(map(bool, change)) == 3 for step in change if step]
    assert 0.4 < sum(step <= 2 for step in steps) / len(steps) < 0.8  # half of them, and some of the others


def test_mutations_find_what_random_choices_do_not() -> None:
    def least(trials: list[Trial]) -> int:
        return min(sum(trial.genotype) for trial in trials)

    assert least(run(MutationSampler(SPACE), 120)) < 0.8 * least(run(RandomSampler(SPACE), 120))


def test_a_failed_trial_is_no_parent_and_a_longer_training_goes_before_a_shorter_one() -> None:
    sampler = MutationSampler(SPACE, parents=1, first=0)
    short, long = Trial(0, (0,) * 12), Trial(1, (19,) * 12)
    sampler.tell(short, Score(0, 0.9))
    sampler.tell(Trial(2, (9,) * 12), None)
    sampler.tell(long, Score(1, 0.5))
    assert sum(option == 19 for option in sampler.ask(3)) == 10


def test_a_trial_that_diverges_later_is_no_parent_any_more() -> None:
    sampler = MutationSampler(SPACE, parents=1, first=0)
    bad, good = Trial(0, (0,) * 12), Trial(1, (19,) * 12)
    sampler.tell(bad, Score(0, 0.9))
    sampler.tell(good, Score(0, 0.5))
    sampler.tell(bad, None)
    assert sum(option == 19 for option in sampler.ask(2)) == 10


def test_a_space_of_one_option_is_not_searched_forever() -> None:
    sampler = MutationSampler(LayerDensities({"a": 10}, (0.5,)), first=0)
    sampler.tell(Trial(0, (0,)), Score(0, 1.0))
    assert sampler.ask(1) == (0,)


def test_the_default_depends_on_the_number_of_choices() -> None:
    assert [default_sampler(count) for count in (1, 5, 6, 50)] == ["tpe", "tpe", "mutation", "mutation"]


def test_trials_survive_the_search(tmp_path: Path) -> None:
    file = tmp_path / "search" / "trials.jsonl"
    log = TrialLog(file)
    assert [log.add((1, 2)), log.add((3, 4))] == [Trial(0, (1, 2)), Trial(1, (3, 4))]
    again = TrialLog(file)
    assert again.trials == log.trials
    assert again.add((5, 6)).number == 2


def test_half_a_line_is_a_trial_that_has_not_begun(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    TrialLog(file).add((1, 2))
    with file.open("a") as text:
        text.write('{"number": 1, "geno')
    log = TrialLog(file)
    assert [trial.number for trial in log.trials] == [0]
    log.add((3, 4))
    assert [trial.genotype for trial in TrialLog(file).trials] == [(1, 2), (3, 4)]


@pytest.mark.parametrize("line", ["{", "[]", '{"number": 0}', '{"number": 7, "genotype": [1]}'])
def test_a_damaged_log_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"Expected .*trials.jsonl; got .*Cure"):
        TrialLog(file)


@pytest.mark.parametrize(
    ("epochs", "count", "lengths"), [(60, 3, [7, 20, 60]), (9, 3, [1, 3, 9]), (5, 1, [5]), (10, 2, [3, 10])]
)
def test_rungs_end_with_a_whole_training(epochs: int, count: int, lengths: list[int]) -> None:
    assert Rungs(epochs, count=count).lengths == lengths


@pytest.mark.parametrize("options", [{"epochs": 8}, {"epochs": 9, "reduction": 1}, {"epochs": 9, "count": 0}])
def test_rungs_that_can_not_be_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"Expected .*Cure"):
        Rungs(**options)


def scores(*values: list[float]) -> dict[Trial, list[float]]:
    return {Trial(number, ()): each for number, each in enumerate(values)}


@pytest.mark.parametrize(
    ("values", "promoted"),
    [
        ([], None),
        ([[0.5], [0.6]], None),  # a third of two is none
        ([[0.5], [0.6], [0.4]], 1),
        ([[0.5], [0.6, 0.7], [0.4]], None),  # already promoted
        ([[0.5], [0.6, 0.7], [0.4], [0.1], [0.2], [0.3]], 0),
        ([[0.5, 0.5], [0.6, 0.7], [0.7, 0.9], [0.1], [0.2], [0.3], [0.0], [0.0], [0.0]], 2),  # the highest rung first
        ([[0.5], [0.5], [0.5]], 0),  # of equal ones, the first
        ([[0.5, 0.5, 0.5], [0.6, 0.7, 0.8], [0.7, 0.9, 0.9]], None),  # all are at the top
    ],
)
def test_a_trial_is_promoted_when_it_is_in_the_best_part_of_its_rung(values: list[Any], promoted: int | None) -> None:
    found = Rungs(9).promoted(scores(*values))
    assert (None if found is None else found.number) == promoted


def test_a_trial_that_trains_is_not_promoted_again() -> None:
    three = scores([0.5], [0.6], [0.4])
    assert Rungs(9).promoted(three, running=[Trial(1, ())]) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_as_many_trials_reach_a_rung_as_it_says(values: list[float]) -> None:
    found: dict[Trial, list[float]] = {Trial(number, ()): [value] for number, value in enumerate(values)}
    rungs = Rungs(9)
    while (trial := rungs.promoted(found)) is not None:
        found[trial].append(found[trial][0])
    reached = [sum(len(each) > rung for each in found.values()) for rung in range(3)]
    assert reached == [len(values), len(values) // 3, len(values) // 3 // 3]


def test_the_score_of_a_trial_is_that_of_its_highest_rung() -> None:
    assert score([0.9]) < score([0.1, 0.2]) < score([0.0, 0.3])
