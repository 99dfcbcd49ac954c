"""The record of a topology update, and what else counts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lightning_sparse.topology.plan import LayerChange

# Of epochs, steps or weights.
_TOO_MANY = 2**63


@dataclass(frozen=True)
class UpdateRecord:
    """One topology update.

    Attributes:
        epoch: Completed epochs.
        step: Completed optimizer steps.
        prune_rate: Fraction in [0, 1] of each layer's active weights that was to be pruned.
        layers: The changes by parameter name: active counts, pruned, grown, redistribution share.
    """

    epoch: int
    step: int
    prune_rate: float
    layers: dict[str, LayerChange]

    @property
    def pruned(self) -> int:
        """Weights pruned in all layers."""
        return sum(change.pruned for change in self.layers.values())

    @property
    def grown(self) -> int:
        """Weights grown in all layers."""
        return sum(change.grown for change in self.layers.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, as a checkpoint needs them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UpdateRecord:
        """Return the record that `to_dict` was called on."""
        layers = {name: LayerChange(**change) for name, change in values["layers"].items()}
        return cls(values["epoch"], values["step"], values["prune_rate"], layers)


def check_counters(state: Mapping[str, Any]) -> None:
    """Raise a ValueError unless a callback's state has the counters and the history of a run.

    Args:
        state: Whose entries are all there.
    """
    try:
        (epoch, step), (last_epoch, last_step), offset = state["first"], state["last"], state["step_offset"]
        ordered = 0 <= epoch <= last_epoch and 0 <= step <= last_step
        sound = ordered and all(map(_is_count, (epoch, step, last_epoch, last_step, abs(offset))))
        sound = sound and all(_is_sound(UpdateRecord.from_dict(values)) for values in state["history"])
    except (AttributeError, KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        found = {name: state[name] for name in ("first", "last", "step_offset", "history")}
        raise ValueError(
            f"Expected counters of epochs and steps, and records of updates; got {repr(found)[:120]}. "
            "Cure: the state is damaged, load another checkpoint."
        )


def _is_sound(record: UpdateRecord) -> bool:
    counts = [record.epoch, record.step]
    for name, change in record.layers.items():
        if change.name != name or not isinstance(change.share, float):
            return False
        counts += [change.size, change.before, change.pruned, change.grown]
    return isinstance(record.prune_rate, float) and all(map(_is_count, counts))


def _is_count(number: object) -> bool:
    # Exactly: True is an integer too.
    return type(number) is int and 0 <= number < _TOO_MANY
