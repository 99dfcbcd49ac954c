"""What is said of a search: the front, errors with their intervals, tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from searches import TEMPLATE, finish, make_all, search, trials_of

from lightning_sparse.search.controls import final_architectures, final_trainings
from lightning_sparse.search.output import as_csv, as_markdown, as_page
from lightning_sparse.search.results import FinalNetwork, SearchResults, front, read_finals
from lightning_sparse.search.spaces import LayerDensities
from lightning_sparse.search.tables import finals_table, front_table, summary
from lightning_sparse.search.trainings import Architecture
from lightning_sparse.search.trials import RandomSampler


@dataclass(frozen=True)
class Network:
    active: int
    reached: float


networks = st.lists(st.builds(Network, st.integers(1, 20), st.sampled_from([0.1, 0.2, 0.5, 0.9])), max_size=12)


@given(networks)
def test_the_front_is_what_no_other_network_beats(found: list[Network]) -> None:
    best = front(found)
    for network in found:
        better = [each for each in found if each.active <= network.active and each.reached >= network.reached]
        is_beaten = any((each.active, each.reached) != (network.active, network.reached) for each in better)
        assert (network in best) is not is_beaten
    assert len(set(best)) == len(best)
    assert [each.active for each in best] == sorted(each.active for each in best)


def final(label: str, **values: float | None) -> FinalNetwork:
    """Return a network with a value for each seed, None if it diverged."""
    results = {
        int(seed.removeprefix("seed")): {"diverged": value is None, "value": value, "active": {"a": 50}}
        for seed, value in values.items()
    }
    return FinalNetwork(label, Architecture(), results)


def test_errors_and_differences_are_means_over_seeds_with_their_intervals() -> None:
    one, other = final("best", seed1=0.98, seed2=0.97, seed3=0.96), final("dense", seed1=0.97, seed2=0.96, seed3=0.95)
    assert one.error == pytest.approx((3.0, 3.0 - 2.4841, 3.0 + 2.4841), abs=1e-4)
    assert one.difference(other) == pytest.approx((-1.0, -1.0, -1.0))
    assert other.difference(one) == pytest.approx((1.0, 1.0, 1.0))


def test_networks_that_diverged_are_counted_and_left_out() -> None:
    one, other = final("best", seed1=0.98, seed2=None), final("dense", seed1=None, seed2=0.9)
    assert one.error == pytest.approx((2.0, 2.0, 2.0))
    assert one.difference(other) is None
    assert final("best", seed1=None).error is None


@pytest.fixture
def results(tmp_path: Path) -> SearchResults:
    """Return a search of 9 trials with final networks."""
    chosen = search(penalty=0.01, note="A note.")
    space = LayerDensities(TEMPLATE.sizes)
    trials = trials_of(chosen, RandomSampler(space), tmp_path)
    make_all(
        trials,
        tmp_path,
        lambda training: 0.5 + training.epochs / 100 + sum(training.architecture.counts.values()) / 10**6,
    )
    assert trials.best is not None
    architectures = final_architectures(chosen, TEMPLATE, trials.best, trials.best)
    for training in final_trainings(chosen, architectures):
        finish(training, tmp_path, value=0.9 + training.seed / 100, active={"a": 23920})
    return SearchResults(chosen, TEMPLATE, "random", trials, trials, read_finals(chosen, architectures, tmp_path))


def test_tables_have_a_row_for_each_final_network_and_each_of_the_front(results: SearchResults) -> None:
    rows = finals_table(results)
    assert [row[0] for row in rows[1:3]] == ["best of the search", "best of random search"]
    assert len(rows) == 1 + 7
    assert rows[1][1:5] == ["23,920", "100.0 %", "2", "8.50 [2.15, 14.85]"]
    assert rows[3][5] == "-"  # the dense network against itself
    assert rows[1][5] == "+0.00"
    tried = front_table(results)
    assert tried[0][4:] == ["fc1", "fc2", "fc3"]
    assert len(tried) >= 2


def test_the_summary_says_how_it_was_searched(results: SearchResults) -> None:
    text = summary(results)
    assert "9 of 9 trials, chosen by random among the densities of 3 layers" in text
    assert "minus 0.01 times the active share" in text
    assert "compared after 1, 2 or 4 epochs" in text
    assert "A note." in as_markdown(results)


def test_a_page_and_a_file_of_numbers_have_all_of_it(results: SearchResults) -> None:
    assert as_page(results).count("<img") == 3
    lines = as_csv(results).splitlines()
    assert len(lines) == 1 + 2 * 9
    assert lines[0].startswith("part,trial,active,fc1.weight,fc2.weight,fc3.weight,accuracy after 1 epochs")


def test_before_any_trial_has_ended_there_are_no_tables(tmp_path: Path) -> None:
    chosen = search()
    trials = trials_of(chosen, RandomSampler(LayerDensities(TEMPLATE.sizes)), tmp_path)
    empty = SearchResults(chosen, TEMPLATE, "random", trials, None, {})
    assert "##" not in as_markdown(empty)
    assert "<img" not in as_page(empty)
    assert trials.best is None


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"seed": 5}])
def test_final_results_of_other_options_are_refused(
    change: dict[str, Any], results: SearchResults, tmp_path: Path
) -> None:
    architectures = {"dense": Architecture()}
    file = tmp_path / "tiny/final/dense/seed1.json"
    told = json.loads(file.read_text())
    told = {**told, "protocol": {**told["protocol"], **change}} if "batch_size" in change else {**told, **change}
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="of other options"):
        read_finals(results.search, architectures, tmp_path)
