"""A small version of the load benchmark: the budget stays exact and memory doesn't grow."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lightning_sparse import SparseNetwork

WEIGHTS, UPDATES, DENSITY = 2_000_000, 60, 0.05
# Of the means of first and last tenth. A bool mask of every weight that is kept at each update is 100 MiB.
MOST_GROWTH = 24 * 2**20

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "update_load.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def growth(benchmark: ModuleType, after: Callable[[SparseNetwork], object]) -> float:
    """Return by how many bytes the process grows from the first tenth of the updates to the last."""
    threads = torch.get_num_threads()
    found = benchmark.run(WEIGHTS, UPDATES, DENSITY, lambda network, budget, found: after(network))
    torch.set_num_threads(threads)
    assert len(found) == UPDATES
    assert min(each.moved for each in found) > DENSITY * WEIGHTS / 4
    first, last = benchmark.tenths(found)
    return last - first


def test_memory_does_not_grow_over_many_updates(benchmark: ModuleType) -> None:
    assert growth(benchmark, lambda network: None) < MOST_GROWTH


def test_a_planted_leak_is_seen(benchmark: ModuleType) -> None:
    kept = []
    assert growth(benchmark, lambda network: kept.append(network.masks)) > 2 * MOST_GROWTH


def test_a_planted_weight_too_many_or_too_few_is_seen(benchmark: ModuleType) -> None:
    network = SparseNetwork(benchmark.layers(20_000), DENSITY, seed=0)
    budget = sum(layer.active for layer in network.layers.values())
    benchmark.check(network, budget)
    for wrong in (budget - 1, budget + 1):
        with pytest.raises(AssertionError, match=f"Expected {wrong} active weights; got {budget}"):
            benchmark.check(network, wrong)
    with torch.no_grad():
        next(iter(network.model.parameters())).fill_(1.0)
    with pytest.raises(AssertionError, match="that are not zero"):
        benchmark.check(network, budget)


def test_layers_have_about_as_many_weights_as_asked_for(benchmark: ModuleType) -> None:
    for weights in (200_000, 2_000_000, 100_000_000):
        with torch.device("meta"):
            found = sum(parameter.numel() for parameter in benchmark.layers(weights).parameters())
        assert abs(found - weights) < 0.1 * weights
