"""The example of docs/methods.md does what the page says."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_training import ShufflingLoader, active_weights, fit

from lightning_sparse import SparseTrainingCallback
from lightning_sparse.methods import Method
from lightning_sparse.testing import check_method

_PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
_WEIGHTS = 80


@pytest.fixture
def documented() -> Iterator[Callable[..., Method]]:
    """The class of the page, in a module as a user's would be, so that it can be pickled."""
    found = re.search(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    module = ModuleType("documented")
    sys.modules["documented"] = module
    exec(compile(found[1], str(_PAGE), "exec"), vars(module))
    yield module.PruneAndMove
    del sys.modules["documented"]


def counts_of(method: Method, density: Any, **options: Any) -> tuple[SparseTrainingCallback, list[int]]:
    sparse = SparseTrainingCallback(method=method, density=density)
    fit(sparse, loader=ShufflingLoader(2), max_epochs=8, **options)
    return sparse, [sum(layer.active for layer in record.layers.values()) for record in sparse.history]


def test_it_satisfies_the_contract_of_methods(documented: Callable[..., Method]) -> None:
    check_method(documented)


def test_it_lowers_the_density_in_the_first_half_and_moves_weights_throughout(
    documented: Callable[..., Method],
) -> None:
    sparse, counts = counts_of(documented(), 0.1)
    assert counts == [round(_WEIGHTS * (0.1 + 0.4 * max(0, 1 - step / 8) ** 3)) for step in range(2, 16, 2)]
    assert active_weights(sparse) == 8
    assert all(record.grown > 0 for record in sparse.history[1:])
    resting, counts = counts_of(documented(start=0.1, moved=0.0), 0.1)
    assert (set(counts), active_weights(resting)) == ({8}, 8)
    assert all(record.grown == 0 for record in resting.history)


def test_a_second_fit_grows_nothing_back(documented: Callable[..., Method]) -> None:
    sparse, _ = counts_of(documented(), 0.1)
    trainer_module = sparse.network.model
    fit(sparse, module=trainer_module, loader=ShufflingLoader(2), max_epochs=8)
    assert {sum(layer.active for layer in record.layers.values()) for record in sparse.history} == {8}


def test_groups_of_layers_reach_their_own_densities(documented: Callable[..., Method]) -> None:
    sparse, _ = counts_of(documented(), {"net.0": 0.25, "net.3": 0.5})
    assert [layer.active for layer in sparse.network.layers.values()] == [12, 16]
