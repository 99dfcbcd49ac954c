"""Trials of a search: each network once, the best of them further, and on where another process left them."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from searches import TEMPLATE, active, finish, make_all, search, trials_of

from lightning_sparse.experiments.engine.finished import Finished
from lightning_sparse.search.spaces import LayerDensities, PowerLaw, Space
from lightning_sparse.search.trainings import SearchTraining
from lightning_sparse.search.trials import MutationSampler, RandomSampler, Sampler, Score, Trial
from lightning_sparse.search.tried import known_genotypes

SPACE = LayerDensities(TEMPLATE.sizes)


def few_are_good(training: SearchTraining) -> float:
    """Return more, the fewer weights there are."""
    return 1 - active(training) / TEMPLATE.total


@pytest.mark.parametrize("at_a_time", [1, 4])
def test_every_trial_is_another_network_and_the_best_of_them_train_further(at_a_time: int, tmp_path: Path) -> None:
    chosen = search(trials=27, reduction=3, epochs=9)
    trials = trials_of(chosen, RandomSampler(SPACE), tmp_path)
    begun = make_all(trials, tmp_path, few_are_good, at_a_time)
    lengths = [path.rpartition("/epochs")[2] for path in begun]
    assert lengths.count("1") == 27
    assert 9 <= lengths.count("3") <= 14  # a third, and those that were among the best when few had ended
    assert 3 <= lengths.count("9") <= 6
    assert len(set(begun)) == len(begun)
    candidates = trials.candidates
    assert len({tuple(each.counts.values()) for each in candidates}) == 27
    assert trials.best is not None
    assert trials.best.active == min(each.active for each in candidates)
    assert trials.counts == (27, lengths.count("9"), 0)


def test_a_trial_that_is_promoted_continues_its_training(tmp_path: Path) -> None:
    trials = trials_of(search(), RandomSampler(SPACE), tmp_path)
    promoted = []
    for training in trials:
        assert training is not None
        promoted += [training] if training.continues else []
        trials.ended(finish(training, tmp_path, value=few_are_good(training)))
    assert {(each.continues, each.epochs) for each in promoted} == {(1, 2), (2, 4)}
    assert all(
        each.begin == each.path.replace(f"epochs{each.epochs}", f"epochs{each.continues}.ckpt") for each in promoted
    )


@pytest.mark.parametrize("killed_after", [1, 5, 12])
def test_another_process_goes_on_with_the_same_trials(killed_after: int, tmp_path: Path) -> None:
    chosen = search(trials=12)
    first = trials_of(chosen, MutationSampler(SPACE), tmp_path)
    begun = make_all(first, tmp_path, few_are_good, at_a_time=3, stop_after=killed_after)
    ended = {each.path for each in ends(tmp_path)}
    assert len(ended) < len(begun) or killed_after == 1
    again = trials_of(chosen, MutationSampler(SPACE), tmp_path)
    later = make_all(again, tmp_path, few_are_good, at_a_time=3)
    assert not ended & set(later)  # nothing is trained twice
    assert {path for path in begun if path not in ended} <= set(later)  # what was interrupted is
    assert again.counts[0] == 12
    assert len({each.trial.genotype for each in again.candidates}) == 12


def ends(results: Path) -> list[SearchTraining]:
    return [SearchTraining.from_json(described(file)) for file in results.rglob("epochs*.json")]


def described(file: Path) -> str:
    import json

    result = json.loads(file.read_text())
    return json.dumps({key: result[key] for key in SearchTraining.__dataclass_fields__})


class Recorder(Sampler):
    """Asks for the smallest networks first, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Score | None]] = []

    def ask(self, number: int, wanted: Any = None) -> Any:
        return wanted if wanted is not None else (number, 0, 0)

    def tell(self, trial: Trial, score: Score | None) -> None:
        self.told.append((trial.number, score))


def test_the_sampler_is_told_the_objective_in_time_and_all_of_it_by_the_next_process(tmp_path: Path) -> None:
    chosen, sampler = search(trials=4, penalty=0.5), Recorder()
    make_all(trials_of(chosen, sampler, tmp_path), tmp_path, lambda training: 0.9)
    first = next(score for number, score in sampler.told if number == 0)
    assert first is not None
    assert (first.rung, first.value) == (0, pytest.approx(0.9 - 0.5 * (1176 + 15 + 5) / TEMPLATE.total))
    later = Recorder()
    trials_of(chosen, later, tmp_path)
    assert sorted(later.told) == sorted(sampler.told)
    assert [number for number, _ in later.told] == sorted(number for number, _ in later.told)


def test_what_diverged_or_failed_is_no_candidate(tmp_path: Path) -> None:
    sampler = Recorder()
    trials = trials_of(search(trials=3, rungs=1), sampler, tmp_path)
    for number, training in zip(count(), trials):
        assert training is not None
        if number == 0:
            trials.ended(Finished(training, failure="it failed"))
        else:
            trials.ended(finish(training, tmp_path, value=0.5, diverged=number == 1))
    assert sampler.told == [(0, None), (1, None), (2, Score(0, 0.5))]
    assert [each.trial.number for each in trials.candidates] == [2]
    assert trials.counts == (3, 1, 2)
    again = trials_of(search(trials=3, rungs=1), Recorder(), tmp_path)
    assert make_all(again, tmp_path, lambda training: 0.5) == [
        "tiny/trials/trial000/epochs4"
    ]  # it may have been mended


def test_all_trials_are_within_the_bound_on_active_weights(tmp_path: Path) -> None:
    trials = trials_of(search(max_active=5000, trials=20), RandomSampler(SPACE), tmp_path, first=[(19, 19, 19)])
    make_all(trials, tmp_path, lambda training: 0.5)
    found = [each.active for each in trials.candidates]
    assert len(found) == 20
    assert max(found) <= 5000
    assert found[0] > 3500  # the dense network is made just as sparse as is needed


@pytest.mark.parametrize("space", [SPACE, PowerLaw(TEMPLATE.sizes)], ids=["layers", "power law"])
def test_a_bound_keeps_what_a_genotype_says_of_the_layers(space: Space, tmp_path: Path) -> None:
    chosen = search(max_active=3000, space="layers" if space is SPACE else "power_law")
    trials = trials_of(chosen, RandomSampler(space), tmp_path)
    uniform = space.like(dict.fromkeys(TEMPLATE.sizes, 0.6))
    densities = list(space.densities(trials.within_bound(uniform)).values())
    assert densities == pytest.approx([0.1] * 3)
    small = space.like(dict.fromkeys(TEMPLATE.sizes, 0.05))
    assert trials.within_bound(small) == small


def test_a_training_that_was_promoted_and_interrupted_is_made_by_the_next_process(tmp_path: Path) -> None:
    chosen = search(trials=4)
    trials = trials_of(chosen, RandomSampler(SPACE), tmp_path)
    promoted = next(each for each in walk(trials, tmp_path, {0: 0.5, 1: 0.4}) if each.continues)
    (tmp_path / promoted.path).mkdir(parents=True)
    (tmp_path / promoted.path / "last.ckpt").touch()
    first = SearchTraining.from_json(promoted.to_json())
    later = finish(trials._training(Trial(2, (1, 1, 1)), 0), tmp_path, value=0.9)
    log = tmp_path / "tiny/trials/trials.jsonl"
    log.write_text(log.read_text() + '{"number": 2, "genotype": [1, 1, 1]}\n')
    again = trials_of(chosen, RandomSampler(SPACE), tmp_path)
    assert later.training.path != first.path
    assert next(iter(again)) == first
    again.remove_checkpoints()
    assert not list(tmp_path.rglob("*.ckpt"))


def walk(trials: Any, results: Path, values: dict[int, float]) -> Any:
    """Make the first trainings of trials, and return all that were begun."""
    for training in trials:
        yield training
        number = int(training.label.removeprefix("trial"))
        trials.ended(finish(training, results, value=values[number]))


def test_the_best_is_among_those_that_trained_longest(tmp_path: Path) -> None:
    trials = trials_of(search(trials=8), RandomSampler(SPACE), tmp_path)
    make_all(trials, tmp_path, lambda training: 1 / training.epochs + active(training) / 10**6)
    assert trials.best is not None
    assert len(trials.best.values) == 3
    assert trials.best.reached < max(each.reached for each in trials.candidates)


def test_trials_beyond_a_lowered_bound_are_no_candidates_and_are_not_continued(tmp_path: Path) -> None:
    make_all(trials_of(search(trials=5), RandomSampler(SPACE), tmp_path), tmp_path, few_are_good, stop_after=4)
    bound = 9000
    again = trials_of(search(trials=5, max_active=bound), RandomSampler(SPACE), tmp_path)
    begun = make_all(again, tmp_path, few_are_good)
    assert all(each.active <= bound for each in again.candidates)
    by_path = {each.path: each for each in ends(tmp_path)}
    assert all(active(by_path[path]) <= bound for path in begun)


def test_a_bound_below_the_sparsest_network_is_refused(tmp_path: Path) -> None:
    trials = trials_of(search(max_active=500), RandomSampler(SPACE), tmp_path)
    with pytest.raises(ValueError, match=r"at most 500 active weights; got 1196 in the sparsest.*Cure"):
        make_all(trials, tmp_path, lambda training: 0.5)


def test_a_space_of_fewer_networks_than_trials_is_tried_once(tmp_path: Path) -> None:
    chosen = search(grid=(0.5, 1.0), trials=30, rungs=1)
    trials = trials_of(chosen, RandomSampler(chosen.choose_space(TEMPLATE)), tmp_path)
    assert len(make_all(trials, tmp_path, lambda training: 0.5)) == 8


@pytest.mark.parametrize("space", [SPACE, PowerLaw(TEMPLATE.sizes)], ids=["layers", "power law"])
def test_a_search_begins_with_what_one_would_try_without_it(space: Space, tmp_path: Path) -> None:
    known = known_genotypes(space, TEMPLATE)
    shares = [sum(TEMPLATE.counts(space.densities(genotype)).values()) / TEMPLATE.total for genotype in known]
    assert shares == pytest.approx([0.1, 0.1, 0.3, 0.3, 0.6, 0.6], abs=0.03)
    uniform = space.densities(known[2])
    assert list(uniform.values()) == pytest.approx([0.3] * 3)
    trials = trials_of(
        search(trials=8, rungs=1, space="layers"),
        RandomSampler(SPACE),
        tmp_path,
        first=known_genotypes(SPACE, TEMPLATE),
    )
    make_all(trials, tmp_path, lambda training: 0.5)
    assert [each.trial.genotype for each in trials.candidates][:6] == known_genotypes(SPACE, TEMPLATE)


def test_results_of_other_options_are_refused(tmp_path: Path) -> None:
    make_all(trials_of(search(), RandomSampler(SPACE), tmp_path), tmp_path, lambda training: 0.5)
    with pytest.raises(ValueError, match=r"got one of other options\. Cure: .*another name"):
        trials_of(search(batch_size=32), RandomSampler(SPACE), tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_result_is_named(text: str, tmp_path: Path) -> None:
    make_all(trials_of(search(), RandomSampler(SPACE), tmp_path), tmp_path, lambda training: 0.5)
    (tmp_path / "tiny/trials/trial003/epochs1.json").write_text(text)
    with pytest.raises(ValueError, match=r"trial003.*Cure: delete it"):
        trials_of(search(), RandomSampler(SPACE), tmp_path)


def test_checkpoints_of_ended_trials_are_removed(tmp_path: Path) -> None:
    trials = trials_of(search(), RandomSampler(SPACE), tmp_path)
    make_all(trials, tmp_path, lambda training: 0.5)
    file = tmp_path / "tiny/trials/trial000/epochs1.ckpt"
    file.touch()
    trials.remove_checkpoints()
    assert not file.exists()
    assert file.with_suffix(".json").exists()
