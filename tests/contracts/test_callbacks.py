"""Every exported sparse-training callback, and the general one with every recipe, has every property of callbacks."""

from __future__ import annotations

import pytest

from contracts.registered import sparse_callbacks
from lightning_sparse.testing import CALLBACK_PROPERTIES

CALLBACKS = sparse_callbacks()


@pytest.mark.parametrize("holds", CALLBACK_PROPERTIES)
@pytest.mark.parametrize("registered", CALLBACKS)
def test_callback(registered: str, holds: str) -> None:
    CALLBACK_PROPERTIES[holds](CALLBACKS[registered])
