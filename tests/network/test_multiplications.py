"""A network learns in the first step what a weight of each layer costs, leaves no hook behind, and keeps it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lightning_sparse import SparseNetwork
from lightning_sparse.models import VGG16, WideResNet
from lightning_sparse.testing.equality import differences
from lightning_sparse.topology import MissingSignalError, Recipe
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.redistribution import REDISTRIBUTION

NAMES = ["momentum", "momentum_per_multiplication", "momentum_per_root_multiplication"]
BATCH = 5


def recipe(name: str = "momentum_per_multiplication") -> Recipe:
    return Recipe(PRUNING["magnitude"], REDISTRIBUTION[name], GROWTH["momentum"])


def small() -> nn.Sequential:
    torch.manual_seed(0)
    pooled = (nn.Conv2d(2, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(*pooled, nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))


COSTS = {"0.weight": 36.0, "4.weight": 1.0, "6.weight": 1.0}


class Run:
    """A small network in training."""

    def __init__(self, model: nn.Module | None = None, *, track: bool = True, density: float = 0.3) -> None:
        self.model = small() if model is None else model
        self.network = SparseNetwork(self.model, density, seed=1)
        self.optimizer = SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.network.attach(self.optimizer, track_multiplications=track)
        self.source = torch.Generator().manual_seed(2)

    def backward(self, size: int = 8, batch: int = BATCH) -> None:
        self.model(torch.randn(batch, 2, size, size, generator=self.source)).square().mean().backward()

    def step(self, times: int = 1, **options: int) -> Run:
        for _ in range(times):
            self.optimizer.zero_grad()
            self.backward(**options)
            self.optimizer.step()
        return self


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_a_convolution_costs_one_multiplication_for_each_position_of_its_map_and_a_linear_layer_one() -> None:
    run = Run()
    assert (run.network.multiplications, hooks(run.model)) == ({}, 3)
    assert run.step().network.multiplications == COSTS


def test_layers_are_looked_at_in_the_first_step_only() -> None:
    run = Run().step()
    assert hooks(run.model) == 0
    assert run.step(2).network.multiplications == COSTS


def test_nothing_is_looked_at_or_saved_unless_it_is_tracked() -> None:
    run = Run(track=False)
    assert hooks(run.model) == 0
    assert run.step().network.multiplications == {}
    assert "multiplications" not in run.network.state_dict()
    assert run.step().network.rewire(recipe("momentum"), 0.3)


@pytest.mark.parametrize("make", [VGG16, WideResNet])
def test_all_weights_of_a_published_network_together_cost_what_pytorch_counts(make: Callable[..., nn.Module]) -> None:
    model, images = make(width=0.1), torch.zeros(2, 3, 32, 32)
    network, optimizer = SparseNetwork(model, 0.2), SGD(model.parameters(), lr=0.1)
    network.attach(optimizer, track_multiplications=True)
    with FlopCounterMode(display=False) as counter:
        loss = model(images).sum()
    loss.backward()
    optimizer.step()
    costs = sum(cost * network.layers[name].size for name, cost in network.multiplications.items())
    assert 2 * 2 * costs == counter.get_total_flops()


@pytest.mark.parametrize("batches", [1, 3])
def test_accumulated_batches_of_other_sizes_change_nothing(batches: int) -> None:
    run = Run()
    for index in range(batches):
        run.backward(batch=2 + index)
    run.optimizer.step()
    assert run.network.multiplications == COSTS


def test_evaluation_before_the_first_step_does_not_count() -> None:
    run = Run()
    with torch.no_grad():
        run.model.eval()(torch.zeros(1, 2, 20, 20))
    run.model.train()
    assert run.step().network.multiplications == COSTS


class Shared(nn.Module):
    """Uses one weight in two layers, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.other = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.again.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        rows: Tensor = images.flatten(1, 2)
        return self.other(self.again(self.again(self.first(rows))).mean(1))  # type: ignore[no-any-return]  # __call__ returns Any


def test_calls_and_layers_that_share_a_weight_add_up() -> None:
    assert Run(Shared()).step().network.multiplications == {"first.weight": 3 * 16.0, "other.weight": 1.0}


class Recomputed(nn.Module):
    """Computes its convolution again in the backward pass."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.net, self.use_reentrant = small(), use_reentrant

    def forward(self, images: Tensor) -> Tensor:
        maps = checkpoint(self.net[0], images.requires_grad_(), use_reentrant=self.use_reentrant)
        return self.net[1:](maps)  # type: ignore[no-any-return]  # __call__ returns Any


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_what_is_computed_again_in_the_backward_pass_counts_once(use_reentrant: bool) -> None:
    found = Run(Recomputed(use_reentrant)).step().network.multiplications
    assert found == {f"net.{name}": cost for name, cost in COSTS.items()}


class Windows(nn.Module):
    """Folds positions into the batch dimension after its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Conv2d(2, 4, 2, 2), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images).permute(0, 2, 3, 1)
        return self.head(self.inner(maps.reshape(-1, 4)).view(maps.shape).mean((1, 2)))  # type: ignore[no-any-return]  # __call__ returns Any


def test_positions_in_the_batch_dimension_are_told_from_examples() -> None:
    found = Run(Windows()).step().network.multiplications
    assert found == {"stem.weight": 16.0, "inner.weight": 16.0, "head.weight": 1.0}


class Unused(nn.Module):
    """Has a layer that is not called, or whose weight is used without calling it."""

    def __init__(self, uses_weight: bool) -> None:
        super().__init__()
        self.net, self.side, self.uses_weight = small(), nn.Linear(8, 3), uses_weight

    def forward(self, images: Tensor) -> Tensor:
        side = nn.functional.linear(images[:, 0, 0], self.side.weight) if self.uses_weight else 0.0
        return self.net(images) + side  # type: ignore[no-any-return]  # __call__ returns Any


def test_a_layer_that_is_not_used_stands_in_the_way_of_no_update() -> None:
    run = Run(Unused(uses_weight=False)).step()
    assert "side.weight" not in run.network.multiplications
    assert hooks(run.model) == 1
    before = run.network.layers
    run.network.rewire(recipe(), 0.5)
    assert run.network.layers["side.weight"].active == before["side.weight"].active


def test_a_weight_that_is_used_without_its_layer_is_an_error_that_names_it_and_changes_nothing() -> None:
    run = Run(Unused(uses_weight=True)).step()
    before = run.network.state_dict()
    with pytest.raises(MissingSignalError, match=r"the multiplications of layer 'side.weight'.*called as a module"):
        run.network.rewire(recipe(), 0.5)
    assert differences(run.network.state_dict(), before) == []


def test_numbers_can_be_given_instead() -> None:
    run, given = Run(track=False).step(), Run().step()
    numbers = {name: torch.tensor(cost, dtype=torch.float64) for name, cost in COSTS.items()}
    with pytest.raises(MissingSignalError, match="track_multiplications=True"):
        run.network.rewire(recipe(), 0.5)
    changes = run.network.rewire(recipe(), 0.5, signals={"multiplications": numbers})
    assert changes == given.network.rewire(recipe(), 0.5)


def test_an_update_before_any_pass_is_an_error_with_the_cure() -> None:
    run = Run()
    with pytest.raises(MissingSignalError, match="Cure: take an optimizer step"):
        run.network.rewire(Recipe(PRUNING["magnitude"], _cost, GROWTH["random"]), 0.5)


def _cost(layer: Any) -> Tensor:
    return layer.require("multiplications")  # type: ignore[no-any-return]  # __call__ returns Any


_cost.signals = frozenset({"multiplications"})  # type: ignore[attr-defined]  # as uses() declares


def multiplications_of(run: Run) -> float:
    costs = run.network.multiplications
    return sum(layer.active * costs[name] for name, layer in run.network.layers.items())


def wide() -> nn.Sequential:
    torch.manual_seed(0)
    maps = (nn.Conv2d(2, 20, 3), nn.ReLU(), nn.Conv2d(20, 20, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(*maps, nn.Linear(80, 60), nn.ReLU(), nn.Linear(60, 3))


def flat() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(128, 9), nn.Linear(9, 4))


def test_claims_per_multiplication_make_a_cheaper_network_of_the_same_number_of_weights() -> None:
    runs = {name: Run(wide(), density=0.1) for name in NAMES}
    for name, run in runs.items():
        for _ in range(4):
            run.step().network.rewire(recipe(name), 0.5)
    assert len({sum(layer.active for layer in run.network.layers.values()) for run in runs.values()}) == 1
    plain, cheap, between = (multiplications_of(run) for run in (runs[name] for name in NAMES))
    assert cheap < between < plain


def test_equal_costs_are_no_costs() -> None:
    runs = {name: Run(flat()) for name in NAMES}
    changes = {name: run.step().network.rewire(recipe(name), 0.5) for name, run in runs.items()}
    assert len(set(changes.values())) == 1


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_resumed_network_updates_as_one_that_was_not_interrupted(steps: int) -> None:
    whole, resumed = Run().step(steps), Run()
    resumed.model.load_state_dict(whole.model.state_dict())
    resumed.optimizer.load_state_dict(copy.deepcopy(whole.optimizer.state_dict()))
    file = io.BytesIO()
    torch.save(whole.network.state_dict(), file)
    file.seek(0)
    resumed.network.load_state_dict(torch.load(file, weights_only=True))
    resumed.source.set_state(whole.source.get_state())
    for run in (whole, resumed):  # in later steps images are smaller
        run.step(1, size=6).network.rewire(recipe(), 0.5)
        assert hooks(run.model) == 0
    assert differences(resumed.network.state_dict(), whole.network.state_dict()) == []


def test_what_was_loaded_is_not_learned_anew() -> None:
    run = Run().step()
    numbers = {**run.network.state_dict()["multiplications"], "0.weight": 7.0}
    run.network._multiplications.load_state_dict({"multiplications": numbers})
    again = SparseNetwork(run.model, 0.3, state=run.network.state_dict())
    again.attach(run.optimizer, track_multiplications=True)
    assert hooks(run.model) == 0
    run.step()
    assert again.multiplications["0.weight"] == 7.0


@pytest.mark.parametrize(
    "numbers",
    [{"0.weight": 0.0}, {"0.weight": float("nan")}, {"other": 1.0}, {"0.weight": "9"}, [1.0]],
    ids=["zero", "nan", "unknown", "text", "list"],
)
def test_a_state_with_other_numbers_is_refused(numbers: Any) -> None:
    from lightning_sparse.network.state import with_checksum

    network = Run().step().network
    state = {kind: value for kind, value in network.state_dict().items() if kind not in ("version", "checksum")}
    with pytest.raises((ValueError, TypeError), match="multiplications"):
        network.load_state_dict(with_checksum({**state, "multiplications": numbers}))
    assert network.multiplications == COSTS


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_of_the_model_is_not_looked_at_and_one_of_the_network_knows_what_is_known(kind: str) -> None:
    run = Run()
    copied = COPIES[kind](run.model)
    copied(torch.zeros(1, 2, 100, 100)).sum().backward()
    assert run.step().network.multiplications == COSTS
    assert COPIES[kind](run.network).multiplications == COSTS


def test_a_detached_network_leaves_no_hook_and_learns_when_it_is_attached_again() -> None:
    run = Run()
    run.network.detach()
    assert hooks(run.model) == 0
    run.step()
    assert run.network.multiplications == {}
    run.network.attach(run.optimizer, track_multiplications=True)
    assert run.step().network.multiplications == COSTS


def test_without_an_attached_optimizer_steps_tell_as_well() -> None:
    run = Run(track=False)
    run.network.detach()
    run.network.watch(track_multiplications=True)
    assert run.step().network.multiplications == COSTS
    assert hooks(run.model) == 0


def test_steps_of_other_weights_end_nothing() -> None:
    run, other = Run(), nn.Linear(2, 2)
    run.backward()
    other(torch.ones(1, 2)).sum().backward()
    SGD(other.parameters(), lr=0.1).step()
    assert (run.network.multiplications, hooks(run.model)) == ({}, 3)
    run.optimizer.step()
    assert run.network.multiplications == COSTS


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_model_that_is_compiled_too_late_is_compiled_whole_and_once_and_tells_nothing() -> None:
    run = Run()
    run.model = torch.compile(run.model, backend="aot_eager", fullgraph=True)  # type: ignore[assignment]  # a module too
    with torch._dynamo.config.patch(error_on_recompile=True):
        run.step(3)
    assert (graphs(), run.network.multiplications) == (1, {})
    with pytest.raises(MissingSignalError, match="multiplications"):
        run.network.rewire(recipe(), 0.5)


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_resumed_run_is_compiled_from_its_first_step_on_though_a_layer_is_never_called() -> None:
    def compiled() -> nn.Module:
        model = Unused(uses_weight=False)
        model.compile(backend="aot_eager")
        return model

    first = Run(compiled(), track=False)
    first.network._multiplications.load_state_dict({"multiplications": {f"net.{name}": COSTS[name] for name in COSTS}})
    resumed = Run(compiled(), track=False)
    resumed.network.load_state_dict(first.network.state_dict())
    resumed.network.attach(SGD(resumed.model.parameters(), lr=0.05), track_multiplications=True)
    assert hooks(resumed.model) == 0
    resumed.step()
    assert graphs() > 0
    resumed.network.rewire(recipe(), 0.5)
