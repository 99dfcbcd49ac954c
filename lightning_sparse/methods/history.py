"""The record of a topology update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.validation.representation import ShowsFields

# Of epochs, steps or weights.
_TOO_MANY = 2**63


@dataclass(frozen=True, repr=False)
class UpdateRecord(ShowsFields):
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

    @property
    def is_sound(self) -> bool:
        """Whether it has numbers where numbers belong; one that was read from a file may not."""
        counts = [self.epoch, self.step]
        for name, change in self.layers.items():
            if change.name != name or not isinstance(change.share, float):
                return False
            counts += [change.size, change.before, change.pruned, change.grown]
        return isinstance(self.prune_rate, float) and all(map(is_count, counts))


def is_count(number: object) -> bool:
    """Tell whether something is a number of epochs, steps or weights."""
    # Exactly: True is an integer too.
    return type(number) is int and 0 <= number < _TOO_MANY
