"""Whoever saves in the middle of a topology update, or after an interrupted one, finds all of before or of after."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from interruption import Between, reached
from torch import Tensor, nn

from lightning_sparse import SparseNetwork
from lightning_sparse.network.rewirable_model import RewirableModel
from lightning_sparse.testing.equality import deep_copy, differences
from lightning_sparse.topology import RECIPES
from lightning_sparse.topology.plan import LayerChange

RATE = 0.5


class Trained:
    """A small sparse network, with what an update is recorded in."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
        self.network = SparseNetwork(self.model, 0.4, seed=1)
        self.history: list[int] = []

    def record(self, changes: tuple[LayerChange, ...]) -> None:
        self.history[:] = [change.pruned for change in changes]

    def rewire(self) -> None:
        self.network.rewire("set", RATE, record=self.record)

    def saved(self) -> dict[str, Any]:
        """Return copies of everything, of the weights first, as a checkpoint of both has them."""
        weights = deep_copy(dict(self.model.state_dict()))
        network = self.network.state_dict()
        return {"weights": weights, "network": network, "history": list(self.history), "seen": self.seen()}

    def seen(self) -> dict[str, Any]:
        """Return what the network shows."""
        network = self.network
        masks = {name: mask.clone() for name, mask in network.masks.items()}
        return {"masks": masks, "layers": network.layers, "densities": network.layer_densities}


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Any]]:
    """Everything before and after the update."""
    trained = Trained()
    before = trained.saved()
    trained.rewire()
    after = trained.saved()
    assert set(places(before, after)) >= {"weights", "network", "history", "seen"}
    return {"before": before, "after": after}


def places(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in one if differences(one[name], other[name])]


def moment(found: dict[str, Any], states: dict[str, dict[str, Any]]) -> str:
    """Return "before" or "after", or what is of neither as a whole."""
    same = [name for name, state in states.items() if not places(found, {key: state[key] for key in found})]
    return same[0] if same else f"neither: not { ({name: places(found, state) for name, state in states.items()}) }"


# Everything that may be looked at first.
LOOKS: dict[str, Callable[[Trained], Any]] = {
    "everything": Trained.saved,
    "the model's weights alone": lambda trained: {"weights": deep_copy(dict(trained.model.state_dict()))},
    "the network's state alone": lambda trained: {"network": trained.network.state_dict()},
    "what the network shows": lambda trained: {"seen": trained.seen()},
}


@pytest.mark.parametrize("look", LOOKS)
def test_whoever_saves_in_the_middle_of_an_update_finds_all_of_before_or_all_of_after(
    look: str, states: dict[str, dict[str, Any]]
) -> None:
    found: list[str] = []

    def interrupted(number: int) -> bool:
        trained, before = Trained(), len(found)
        with Between("_carry_out", number, lambda: found.append(moment(LOOKS[look](trained), states))):
            trained.rewire()
        assert moment(trained.saved(), states) == "after"
        assert not trained.model._state_dict_pre_hooks
        return len(found) > before

    assert reached(interrupted) > 100
    assert set(found) == {"before", "after"}
    assert found == sorted(found, reverse=True)  # never back


def test_whoever_saves_while_an_update_is_decided_finds_all_of_before(states: dict[str, dict[str, Any]]) -> None:
    found: list[str] = []
    trained = Trained()

    def rule(layer: Any) -> Tensor:
        noise = torch.rand(layer.weight.shape, generator=layer.generator)
        found.append(moment(trained.saved(), states))
        return noise

    recipe = copy.copy(RECIPES["set"])
    object.__setattr__(recipe, "grow", rule)
    trained.network.rewire(recipe, RATE, record=trained.record)
    assert found == ["before", "before"]


def test_ctrl_c_in_an_update_leaves_all_of_before_or_all_of_after(states: dict[str, dict[str, Any]]) -> None:
    found: list[str] = []

    def stop() -> None:
        raise KeyboardInterrupt

    def interrupted(number: int) -> bool:
        trained = Trained()
        try:
            with Between("_carry_out", number, stop):
                trained.rewire()
        except KeyboardInterrupt:
            weights = {"weights": deep_copy(dict(trained.model.state_dict()))}
            found.append(moment(trained.saved(), states))
            assert moment(weights, states) == found[-1]
            check_trains_on(trained, found[-1], states, copies=number % 20 == 0)
            return True
        return False

    assert reached(interrupted) > 100
    assert set(found) == {"before", "after"}


def check_trains_on(trained: Trained, now: str, states: dict[str, dict[str, Any]], copies: bool) -> None:
    """Ask that the update, if it didn't happen, can be made up for, and that copies are complete."""
    clones = [copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))] if copies else []
    for each in (trained, *clones):
        for _ in range(now == "before"):
            each.rewire()
        assert moment(each.saved(), states) == "after"


@pytest.mark.parametrize("look", ["everything", "the model's weights alone"])
def test_without_completing_it_half_of_an_update_would_be_found(
    look: str, states: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: set[str] = set()
    monkeypatch.setattr(RewirableModel, "_masks", property(lambda self: self._latest_masks, RewirableModel._masks.fset))
    monkeypatch.setattr(
        RewirableModel, "_active", property(lambda self: self._latest_counts, RewirableModel._active.fset)
    )
    whole = RewirableModel.complete_update
    for number in range(0, 200, 5):
        trained = Trained()

        def look_on(trained: Trained = trained) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(RewirableModel, "complete_update", lambda *_: None)
                trained.model._state_dict_pre_hooks.clear()
                found.add(moment(LOOKS[look](trained), states).partition(":")[0])

        with Between("_carry_out", number, look_on):
            trained.rewire()
    assert RewirableModel.complete_update is whole
    assert "neither" in found
