"""Results of class specialization by layer, and their history, which checkpoints hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_sparse.validation.errors import InvalidValueError

# By layer, the tensors that `ClassSpecialization` computes.
Result = dict[str, dict[str, Tensor]]
# By completed epochs.
History = dict[int, Result]


def without_proportions(result: Result) -> Result:
    """Return a result without its largest part: the table of channels and classes."""
    return {
        layer: {name: value for name, value in computed.items() if name != "proportions"}
        for layer, computed in result.items()
    }


def copy_history(history: History) -> History:
    """Return a copy of a history that shares only the tensors with it."""
    return {epochs: {layer: dict(computed) for layer, computed in result.items()} for epochs, result in history.items()}


def history_of_state(state_dict: Mapping[str, Any], callback: str) -> History:
    """Return a copy of the history in a callback's state.

    Args:
        state_dict: The callback's state in a checkpoint.
        callback: Name of its class, for the message.

    Raises:
        ValueError: If the state has no history.
    """
    history = state_dict.get("history")
    if not isinstance(history, dict):
        raise InvalidValueError(
            expected=f"the state of a {callback}, with its history",
            got=sorted(state_dict),
            cure="resume from a checkpoint of a run with this callback",
        )
    return copy_history(history)
