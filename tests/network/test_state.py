"""A saved state is taken only if it is whole, of this version, and has nothing but what it should have."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_sparse.network import state as states
from lightning_sparse.network.state import verify_checksum, with_checksum
from lightning_sparse.topology.digest import checksum

NAMES = {"steps", "masks"}
CONTENT: dict[str, Any] = {"steps": 3, "masks": {"a": [1, 2]}}


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """Return a state whose checksum is right, whatever else is wrong with it."""
    return {**content, "checksum": checksum(content)}


def test_a_state_that_was_saved_is_taken() -> None:
    verify_checksum(with_checksum(CONTENT), NAMES, "a run")


def test_a_state_of_a_later_version_is_refused_though_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(states, "VERSION", states.VERSION + 1)
        state = with_checksum(CONTENT)
    with pytest.raises(ValueError, match=f"Expected a state of version {states.VERSION}; got {states.VERSION + 1}"):
        verify_checksum(state, NAMES, "a run")


def test_an_entry_that_does_not_belong_to_a_state_is_refused_though_it_is_whole() -> None:
    with pytest.raises(ValueError, match="foreign"):
        verify_checksum(signed({"version": states.VERSION, **CONTENT, "foreign": 1}), NAMES, "a run")


def test_a_state_that_lacks_an_entry_is_refused_though_it_is_whole() -> None:
    with pytest.raises(ValueError, match="Expected a state with"):
        verify_checksum(signed({"version": states.VERSION, "steps": 3}), NAMES, "a run")


def test_a_changed_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="checksum"):
        verify_checksum({**with_checksum(CONTENT), "steps": 4}, NAMES, "a run")
