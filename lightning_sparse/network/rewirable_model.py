"""A masked model with its budget, and topology updates that happen as a whole or not at all, if interrupted, too."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.network.budget import LayerDensity
from lightning_sparse.network.coverage import Coverage, count_others
from lightning_sparse.network.dtensor import to_local
from lightning_sparse.network.masked_model import MaskedModel
from lightning_sparse.network.masks import Masks
from lightning_sparse.selection.names import named_parameters
from lightning_sparse.selection.patterns import name_list
from lightning_sparse.selection.weight import Weight
from lightning_sparse.selection.weights import weights_by_reason
from lightning_sparse.topology.packing import unpack_mask
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.rewire import Rewiring
from lightning_sparse.validation.errors import InvalidValueError

# Records an update elsewhere: called with the changes, perhaps twice for the same update.
Record = Callable[[tuple[LayerChange, ...]], None]

# Under which a model's hooks have ours. A name of ours, not a number of PyTorch's: then it is set and removed in one
# instruction each, between which no signal can come.
_HOOK: Any = "lightning_sparse topology update"


@dataclass
class DecidedUpdate:
    """A topology update that is decided: what is left to do can be done twice, or by somebody else.

    Attributes:
        rewiring: Survivors and new masks, packed.
        random_state: State of the network's generator after the draws of the update.
        record: Function that records it elsewhere, as a part of it.
        is_applied: Whether weights, masks, counts and random state are those of after.
    """

    rewiring: Rewiring[Tensor]
    random_state: Tensor
    record: Record | None
    is_applied: bool = False


class RewirableModel(MaskedModel):
    """A masked model with the numbers of its active weights; both change together, with weights and random state.

    Signals interrupt Python between any two instructions: a handler may save a checkpoint then, and Ctrl-C raises an
    error there. So an update is decided without changing anything, made known by a single assignment, and applied from
    then on by steps that may be repeated. Who needs masks, counts or random state while it is not applied yet applies
    it first: the handler, or whoever comes after the error.

    Args:
        model: Any module.
        weights: The maskable weights by name.
        choice: Patterns that chose them, see `MaskedModel`.
        active: Number of active weights by name.
    """

    _update: DecidedUpdate | None = None
    _generator: torch.Generator

    def __init__(
        self, model: nn.Module, weights: Mapping[str, Weight], choice: dict[str, Any], active: Mapping[str, int]
    ) -> None:
        super().__init__(model, weights, choice)
        self._active = dict(active)
        # Parameters of the model when they were examined last: name, weak reference, and whether they were trainable.
        self._examined: list[tuple[str, weakref.ref[nn.Parameter], bool]] = []
        # Number of trained weights then with two or more dimensions that are not maskable.
        self._others = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: an update that is complete; the examination was one of these parameters."""
        self.complete_update()
        return {**super().__getstate__(), "_examined": []}

    @property
    def layers(self) -> dict[str, LayerDensity]:
        """Sizes and active counts by parameter name, in the order of the model."""
        return {
            name: LayerDensity(
                tuple(parameter.shape), parameter.numel(), self._active[name], dense=name not in self._masks.names
            )
            for name, parameter in self._parameters.items()
        }

    @property
    def layer_densities(self) -> dict[str, float]:
        """Active fraction of each maskable weight, in [0, 1], by parameter name."""
        return {name: self._active[name] / parameter.numel() for name, parameter in self._parameters.items()}

    @property
    def density(self) -> float:
        """Active fraction of all maskable weights, in (0, 1]; see `overall_density` for that of the whole model."""
        return sum(self._active.values()) / sum(parameter.numel() for parameter in self._parameters.values())

    @property
    def coverage(self) -> Coverage:
        """Numbers of active and of all trainable weights in parameters with two or more dimensions, maskable or not."""
        others = self._others if self._is_as_examined() else count_others(self.model, self._parameters)
        size = sum(parameter.numel() for parameter in self._parameters.values())
        return Coverage(sum(self._active.values()) + others, size + others)

    @property
    def overall_density(self) -> float:
        """Active fraction of all trainable weights in parameters with two or more dimensions, in (0, 1].

        Layers that can't be masked (embeddings) or are not (LSTMs, unless included) count as dense, tied weights once.
        """
        return self.coverage.density

    def enforce_changes(self) -> None:
        """Do so if weights were written to since, as far as PyTorch counts that; else it costs a microsecond."""
        masks = self._latest_masks if self._update is None else self._masks
        if masks.have_changed():
            masks.apply()

    def check_weights(self) -> None:
        """Raise unless the weights that can be masked are those that were, but for masked ones that were frozen since.

        Raises:
            ValueError: With the names of weights that are new or unfrozen, or were replaced or removed.
        """
        if not self._is_as_examined():
            self._examine()

    def _is_as_examined(self) -> bool:
        """Tell whether the model has the parameters of the last examination, trained or frozen as they were then."""
        current = list(self.model.named_parameters())
        return len(current) == len(self._examined) and all(
            name == known_name and parameter is reference() and parameter.requires_grad == was_trained
            for (name, parameter), (known_name, reference, was_trained) in zip(current, self._examined, strict=True)
        )

    def _examine(self) -> None:
        """Search the whole model, and raise unless the maskable weights are those of the constructor."""
        own = dict(named_parameters(self.model))
        include, exclude = self._choice["include"], self._choice["exclude"]
        maskable = weights_by_reason(self.model, include, exclude)
        new = [name for name in maskable if name not in self._parameters]
        gone = [name for name, parameter in self._parameters.items() if own.get(name) is not parameter]
        for names, what in ((gone, "replaced or removed"), (new, "added or unfrozen")):
            if names:
                raise InvalidValueError(
                    expected="the weights that were masked when sparse training began",
                    got=f"others: {name_list(names)} {'was' if len(names) == 1 else 'were'} {what} since",
                    cure=(
                        "change layers before sparse training begins, leave out with exclude what stays "
                        "dense, and use a new callback for a new set of layers"
                    ),
                )
        self._others = count_others(self.model, self._parameters)
        self._examined = [
            (name, weakref.ref(parameter), parameter.requires_grad) for name, parameter in self.model.named_parameters()
        ]

    @property
    def _masks(self) -> Masks:
        if self._update is not None:  # asked here, as every step does, and a call takes longer
            self._apply_update()
        return self._latest_masks

    @_masks.setter
    def _masks(self, masks: Masks) -> None:
        self._latest_masks = masks

    @property
    def _active(self) -> dict[str, int]:
        """Number of active weights by name, of masked weights and of those that stay dense."""
        self._apply_update()
        return self._latest_counts

    @_active.setter
    def _active(self, counts: Mapping[str, int]) -> None:
        self._latest_counts = dict(counts)

    def _carry_out(self, update: DecidedUpdate) -> None:
        """Change everything that an update changes."""
        hooks = self.model._state_dict_pre_hooks
        try:
            hooks[_HOOK] = self.complete_update  # as the model's weights may be saved alone
            self._update = update  # from here on it has happened
            self.complete_update()
        except BaseException:  # Ctrl-C, or what a signal handler raises
            self.complete_update()
            raise
        finally:
            if self._update is None:
                hooks.pop(_HOOK, None)

    def complete_update(self, *_: object) -> None:
        """Complete a topology update that was interrupted, if there is one; every part of it may be repeated."""
        update = self._update
        if update is not None:
            self._apply_update()
            if update.record is not None:
                update.record(update.rewiring.changes)
            self._update = None

    @torch.no_grad()
    def _apply_update(self) -> None:
        update = self._update
        if update is None or update.is_applied:
            return
        for change in update.rewiring.changes:
            weight = to_local(self._parameters[change.name]).detach()
            weight.mul_(unpack_mask(update.rewiring.survivors[change.name], weight.shape).to(weight.dtype))
            self._latest_masks.stored(change.name).copy_(unpack_mask(update.rewiring.masks[change.name], weight.shape))
            self._latest_counts[change.name] = change.active
        self._generator.set_state(update.random_state)
        update.is_applied = True
