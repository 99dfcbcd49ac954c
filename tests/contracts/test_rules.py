"""Every registered rule has every property of its kind."""

from __future__ import annotations

import pytest

from lightning_sparse.testing import GROWTH_PROPERTIES, PRUNING_PROPERTIES, REDISTRIBUTION_PROPERTIES
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.redistribution import REDISTRIBUTION


@pytest.mark.parametrize("holds", PRUNING_PROPERTIES)
@pytest.mark.parametrize("registered", PRUNING)
def test_pruning_rule(registered: str, holds: str) -> None:
    PRUNING_PROPERTIES[holds](PRUNING[registered])


@pytest.mark.parametrize("holds", REDISTRIBUTION_PROPERTIES)
@pytest.mark.parametrize("registered", REDISTRIBUTION)
def test_redistribution_rule(registered: str, holds: str) -> None:
    REDISTRIBUTION_PROPERTIES[holds](REDISTRIBUTION[registered])


@pytest.mark.parametrize("holds", GROWTH_PROPERTIES)
@pytest.mark.parametrize("registered", GROWTH)
def test_growth_rule(registered: str, holds: str) -> None:
    GROWTH_PROPERTIES[holds](GROWTH[registered])
