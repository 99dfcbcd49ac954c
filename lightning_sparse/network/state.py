"""The saved state of a sparse network: checked as a whole before anything of it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.network.seeding import generator_in
from lightning_sparse.selection.names import written_names
from lightning_sparse.topology.digest import checksum
from lightning_sparse.topology.layer import MULTIPLICATIONS
from lightning_sparse.topology.packing import unpack_mask
from lightning_sparse.validation.errors import InvalidValueError

# Raised whenever an older version of this package could not read the state.
VERSION = 1
_CONTENT = {"masks", "shapes", "generator", "steps", "averages", "gradients"}
# What a network began with, if updates have changed its number of active weights; and the multiplications that its
# weights cost, if a rule decides by them.
_OPTIONAL = frozenset({"initial_budget", MULTIPLICATIONS})
_SOURCE = "state_dict() of a SparseNetwork"


def with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with a version and a checksum, so that damage doesn't go unseen."""
    content = {"version": VERSION, **content}
    return {**content, "checksum": checksum(content)}


def verify_checksum(
    state: Mapping[str, Any], expected: set[str], source: str, optional: frozenset[str] = frozenset()
) -> None:
    """Raise a ValueError unless a state has exactly the expected entries and is what was saved.

    Args:
        state: Result of `with_checksum`, possibly damaged since.
        expected: Names of the content.
        source: Noun phrase for the origin of such states, for the cure.
        optional: Names of content that there may be besides.
    """
    if not isinstance(state, Mapping) or (missing := expected - set(state)):
        found = f"none of {sorted(missing)}" if isinstance(state, Mapping) else repr(state)[:80]
        raise InvalidValueError(
            expected=f"a state with {sorted(expected)}",
            got=found,
            cure=f"load what {source} returned",
        )
    if state.get("version") != VERSION:
        raise InvalidValueError(
            expected=f"a state of version {VERSION}",
            got=f"{state.get('version')!r}",
            cure="load it with the version of lightning_sparse that wrote it",
        )
    if foreign := set(state) - expected - optional - {"version", "checksum"}:
        raise InvalidValueError(
            expected=f"a state with {sorted(expected)} only",
            got=f"{sorted(map(str, foreign))} too",
            cure=f"load what {source} returned",
        )
    found = checksum({name: value for name, value in state.items() if name != "checksum"})
    if found != state.get("checksum"):
        raise InvalidValueError(
            expected=f"a state with the checksum {state.get('checksum')!r}, as it was saved",
            got=repr(found),
            cure="the file is damaged, load another checkpoint",
        )


def under_written_names(state: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """Return a network's state under the names that the user wrote; older versions saved those of some wrappers.

    Args:
        state: Result of `SparseNetwork.state_dict`, possibly of another model, or damaged.
        names: Names of the masked weights of the network that is to take it over.

    Raises:
        ValueError: If the state has other names and is damaged.
    """
    saved = state.get("shapes") if isinstance(state, Mapping) else None
    if not isinstance(saved, Mapping) or set(saved) <= set(names) or not all(isinstance(name, str) for name in saved):
        return state
    verify_checksum(state, _CONTENT, _SOURCE, _OPTIONAL)
    _check_types(state)
    written = written_names(list(saved), names)
    content = {name: entry for name, entry in state.items() if name not in ("version", "checksum")}
    by_name = {"masks", "shapes", "averages", "gradients", MULTIPLICATIONS}.intersection(content)
    content |= {kind: {written.get(name, name): entry for name, entry in state[kind].items()} for kind in by_name}
    return with_checksum(content)


def check_network_state(
    state: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], budget: int, always: int = 0
) -> dict[str, int]:
    """Return the number of active weights by name in the state of a network.

    Args:
        state: Result of `SparseNetwork.state_dict`.
        shapes: Shapes of the masked weights of the network that is to take it over, by name.
        budget: Number of active weights that it began with.
        always: Number of those that have no mask, as they stay dense.

    Raises:
        ValueError: If the state is damaged, or that of another model, choice of layers or density.
    """
    verify_checksum(state, _CONTENT, _SOURCE, _OPTIONAL)
    _check_types(state)
    ours = {name: list(shape) for name, shape in shapes.items()}
    if state["shapes"] != ours or set(state["masks"]) != set(ours):
        raise InvalidValueError(
            expected=f"masks of {_briefly(ours)}",
            got=f"{_briefly(state['shapes'])}",
            cure="load the state of a run with the same model and the same include, exclude and dense",
        )
    counts = {
        name: int(torch.count_nonzero(unpack_mask(packed, tuple(ours[name]))))
        for name, packed in state["masks"].items()
    }
    begun = state.get("initial_budget", sum(counts.values()) + always)
    if type(begun) is not int or begun != budget:
        raise InvalidValueError(
            expected=f"masks with {budget - always} active weights, this network's budget",
            got=f"{begun - always if type(begun) is int else begun}",
            cure="give the density of the run that the state comes from",
        )
    generator_in(state["generator"])
    return counts


def unpacked_masks(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the masks of whole weights in the state of a network, bool, by name.

    Raises:
        ValueError: If the state is damaged.
    """
    verify_checksum(state, _CONTENT, _SOURCE, _OPTIONAL)
    _check_types(state)
    generator_in(state["generator"])
    if set(state["masks"]) != set(state["shapes"]):
        raise InvalidValueError(
            expected="a shape for every mask of a state",
            got=f"masks of {sorted(state['masks'])[:4]} and shapes of {sorted(state['shapes'])[:4]}",
            cure="load what state_dict() of a SparseNetwork returned",
        )
    return {name: unpack_mask(packed, tuple(state["shapes"][name])) for name, packed in state["masks"].items()}


def _check_types(state: Mapping[str, Any]) -> None:
    expected: dict[str, type] = {"masks": Tensor, "shapes": list, "averages": Tensor, "gradients": Tensor}
    expected |= {MULTIPLICATIONS: float} if MULTIPLICATIONS in state else {}
    for name, kind in expected.items():
        entries = state[name]
        if not isinstance(entries, Mapping) or not all(isinstance(entry, kind) for entry in entries.values()):
            raise InvalidValueError(
                expected=f"the {name} of a state as a dictionary of {kind.__name__}s",
                got=f"{repr(entries)[:80]}",
                cure="load what state_dict() of a SparseNetwork returned",
            )


def _briefly(shapes: Mapping[str, Sequence[int]]) -> str:
    listed = [f"{name} {tuple(shape)}" for name, shape in shapes.items()]
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
