"""What a search has found: its trials, the front of them, and the final networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lightning_sparse.comparison.intervals import Interval, mean_interval
from lightning_sparse.experiments.results import read_training
from lightning_sparse.search.controls import BEST, final_trainings
from lightning_sparse.search.density_search import DensitySearch
from lightning_sparse.search.template import Template
from lightning_sparse.search.trainings import RESULT, Architecture, SearchTraining
from lightning_sparse.search.tried import Trials


class _Sized(Protocol):
    @property
    def active(self) -> int: ...

    @property
    def reached(self) -> float: ...


_S = TypeVar("_S", bound=_Sized)


def front(networks: Iterable[_S]) -> list[_S]:
    """Return the networks that no other one beats in both: fewer active weights, and a better value.

    Args:
        networks: Objects with a number of active weights as `active`, and a value as `reached`.

    Returns:
        The front, from the fewest active weights on. Of equal networks the first is in it.
    """
    found: list[_S] = []
    for network in sorted(networks, key=lambda each: (each.active, -each.reached)):
        if not found or network.reached > found[-1].reached:
            found.append(network)
    return found


@dataclass(frozen=True)
class FinalNetwork:
    """A network that was trained with several seeds and tested.

    Attributes:
        label: Its name: "best", or a control.
        architecture: Its active weights and width.
        results: Content of its result files, by seed.
    """

    label: str
    architecture: Architecture
    results: Mapping[int, Mapping[str, Any]]

    @property
    def whole(self) -> dict[int, float]:
        """Error in percent of each seed whose network is finite."""
        return {seed: 100 * (1 - result["value"]) for seed, result in self.results.items() if not result["diverged"]}

    @property
    def active(self) -> int:
        """Number of active weights."""
        return int(max(sum(result["active"].values()) for result in self.results.values()))

    @property
    def error(self) -> Interval | None:
        """Mean error in percent with its 95 % interval; None if no network is finite."""
        return mean_interval(list(self.whole.values())) if self.whole else None

    def difference(self, other: FinalNetwork) -> Interval | None:
        """Return by how many points its error is larger than another's, seed by seed, with its 95 % interval."""
        both = [self.whole[seed] - other.whole[seed] for seed in self.whole if seed in other.whole]
        return mean_interval(both) if both else None


@dataclass(frozen=True)
class SearchResults:
    """A search with what there is of it.

    Attributes:
        search: The search.
        template: Its template.
        sampler: Name of its sampler.
        trials: Its trials.
        random: The trials of a random search with the same budget, if it is among the controls.
        finals: Final networks by name, those with results.
        earlier: Number of other networks that were the best once, and were tested then.
    """

    search: DensitySearch
    template: Template
    sampler: str
    trials: Trials
    random: Trials | None
    finals: Mapping[str, FinalNetwork]
    earlier: int = 0


def read_finals(
    search: DensitySearch, architectures: Mapping[str, Architecture], results: Path
) -> dict[str, FinalNetwork]:
    """Return the final networks that have results.

    Raises:
        ValueError: If a result file is damaged, or of other options.
    """
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for training in final_trainings(search, architectures):
        file = _file(training, results)
        if file.exists():
            found.setdefault(training.label, {})[training.seed] = read_training(file, training, RESULT, "search")
    return {label: FinalNetwork(label, architectures[label], results) for label, results in found.items()}


def earlier_choices(search: DensitySearch, architectures: Mapping[str, Architecture], results: Path) -> int:
    """Return how many networks were tested as the best one before another one was chosen."""
    current = {_file(training, results).parent for training in final_trainings(search, architectures)}
    return len({*(results / search.name / "final").glob(f"{BEST}*")} - current)


def _file(training: SearchTraining, results: Path) -> Path:
    return results / f"{training.path}.json"
