"""A small version of the load benchmark: the budget stays exact and memory doesn't grow."""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lightning_sparse import SparseNetwork

WEIGHTS, UPDATES, DENSITY = 2_000_000, 60, 0.05
# Of the means of first and last tenth. A bool mask of every weight that is kept at each update is 100 MiB.
MOST_GROWTH = 24 * 2**20

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux")


def load_benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "update_load.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_benchmark()


def growth(leaks: bool) -> float:
    """Return by how many bytes this process grows from the first tenth of the updates to the last."""
    benchmark, kept = load_benchmark(), []
    torch.set_num_threads(1)
    found = benchmark.run(
        WEIGHTS, UPDATES, DENSITY, lambda network, budget, found: kept.append(network.masks if leaks else None)
    )
    assert len(found) == UPDATES
    assert min(each.moved for each in found) > DENSITY * WEIGHTS / 4
    first, last = benchmark.tenths(found)
    return float(last - first)


@pytest.fixture
def fresh_process() -> Iterator[ProcessPoolExecutor]:
    """Yield a process whose memory no other test has used before, and which no leak could reuse."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_memory_does_not_grow_over_many_updates(fresh_process: ProcessPoolExecutor) -> None:
    assert fresh_process.submit(growth, leaks=False).result() < MOST_GROWTH


def test_a_planted_leak_is_seen(fresh_process: ProcessPoolExecutor) -> None:
    assert fresh_process.submit(growth, leaks=True).result() > 2 * MOST_GROWTH


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
