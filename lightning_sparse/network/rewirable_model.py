"""A masked model with its budget, and topology updates that happen as a whole or not at all, if interrupted, too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.network.budget import Density, LayerDensity
from lightning_sparse.network.changes.layer_groups import LayerGroup, Recipes, joined, layer_groups
from lightning_sparse.network.changes.replaced_masks import check_masks, check_names, replacement
from lightning_sparse.network.dtensor import local_part, to_local
from lightning_sparse.network.masked_model import MaskedModel
from lightning_sparse.network.masks import Masks
from lightning_sparse.network.multiplications import Multiplications
from lightning_sparse.network.signals import Signals
from lightning_sparse.selection.weight import Weight
from lightning_sparse.topology.layer import MULTIPLICATIONS, LayerView
from lightning_sparse.topology.packing import pack_mask, unpack_mask
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.recipes import as_recipe
from lightning_sparse.topology.rewire import Rewiring, rewire_into

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
    # Set by whoever makes the network.
    _generator: torch.Generator
    _signals: Signals
    _multiplications: Multiplications
    _min_active: int

    def __init__(
        self, model: nn.Module, weights: Mapping[str, Weight], choice: dict[str, Any], active: Mapping[str, int]
    ) -> None:
        super().__init__(model, weights, choice)
        self._active = dict(active)
        self._mask_version = 0
        # Number of active weights of the constructor; a state says so where updates have changed it.
        self._initial_budget = sum(active.values())

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: an update that is complete."""
        self.complete_update()
        return super().__getstate__()

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

    def enforce_changes(self) -> None:
        """Mask the weights if any was written to since, as far as PyTorch counts that; else it costs a microsecond."""
        masks = self._latest_masks if self._update is None else self._masks
        if masks.have_changed():
            masks.apply()

    @property
    def mask_version(self) -> int:
        """Number that grows with every change of masks, so that what was computed from them is known to be old."""
        self._apply_update()
        return self._mask_version

    def rewire(
        self,
        recipe: Recipes,
        prune_rate: float = 0.0,
        *,
        density: Density | None = None,
        names: Collection[str] | None = None,
        signals: Mapping[str, Mapping[str, Tensor]] | None = None,
        record: Record | None = None,
    ) -> tuple[LayerChange, ...]:
        """Update the topology once and return what changed in each layer.

        The number of active weights stays if the recipe grows weights; with a density it becomes
        `round(density * N)`. Pruned weights become zero, grown weights start at zero (for those pruned in the same
        update the recipe may say otherwise). On any error nothing is changed. An interruption, as Ctrl-C, or a signal
        handler that saves finds everything as before the update or everything as after it.

        Args:
            recipe: The rules, from `lightning_sparse.topology.recipes` (also by name) or your own. Or a mapping of
                layer patterns to those of each group, of which the first match counts: layers that match none stay as
                they are.
            prune_rate: Fraction in [0, 1] of each layer's active weights to prune.
            density: Fraction in (0, 1] of the N maskable weights that are active afterwards, of all layers, not only of
                those named. Or a mapping of layer patterns to that of each group: layers that match none keep their
                number.
            names: Names of the weights to update; the others stay as they are. Default: all that are trained now
                (`requires_grad`).
            signals: Signals that rules ask for beyond those of the network, or in their place: by the signal's name, a
                tensor for each weight by its name, of the weight's shape (of a sharded one, of the local part's);
                "multiplications" as zero-dimensional ones. Processes agree on those, so all of them must call this.
            record: Function that records the changes elsewhere, as a part of the update: what it wrote is complete
                after `complete_update()`. It may be called twice for the same update.

        Raises:
            ValueError: If the prune rate or the density is out of range or a rule returns something unusable.
            MissingSignalError: If a rule needs momentum or gradients before there are any.
            NonFiniteError: If a weight, or a signal that a rule depends on, is NaN or infinite.
        """
        self.complete_update()
        generator = torch.Generator()  # a copy, as the rules draw from it before anything has happened
        generator.set_state(self._generator.get_state())
        # A frozen weight would be regrown where it can't be trained.
        if names is not None:
            check_names(names, self._masks.names)
        trained = [name for name in self._masks.names if self._parameters[name].requires_grad]
        names = trained if names is None else [name for name in self._masks.names if name in names]
        if density is None and not isinstance(recipe, Mapping):
            rules = recipe if isinstance(recipe, Recipe) else as_recipe(recipe)
            groups: list[LayerGroup] = [(rules, names, prune_rate, None)]
        else:
            groups = layer_groups(self.model, recipe, prune_rate, density, names, self._sizes, self._active)
        if any(MULTIPLICATIONS in rules.signals for rules, *_ in groups):
            self._multiplications.agree()
        with torch.no_grad():
            rewirings = [
                rewire_into(
                    [partial(self._view, name, rules.signals, generator, signals) for name in members],
                    rules,
                    rate,
                    store=pack_mask,  # all new masks together are smaller than a single layer's weight
                    budget=budget,
                    min_active=self._min_active,
                )
                for rules, members, rate, budget in groups
            ]
        rewiring = rewirings[0] if len(rewirings) == 1 else joined(rewirings, names)
        self._carry_out(DecidedUpdate(rewiring, generator.get_state(), record))
        self._masks.are_applied(names)  # so that a look at changes counts no step
        return rewiring.changes

    @property
    def _sizes(self) -> dict[str, int]:
        return {name: parameter.numel() for name, parameter in self._parameters.items()}

    def _view(
        self,
        name: str,
        used: frozenset[str],
        generator: torch.Generator,
        signals: Mapping[str, Mapping[str, Tensor]] | None,
    ) -> LayerView:
        given = {kind: each[name] for kind, each in (signals or {}).items() if kind in used and name in each}
        own = {"momentum": self._signals.momentum, "gradient": self._signals.gradient}
        if MULTIPLICATIONS in used and MULTIPLICATIONS not in given:
            given |= self._multiplications.signal(name, own)
        return LayerView(
            name=name,
            weight=to_local(self._parameters[name]).detach(),
            mask=self._masks.stored(name).bool(),
            generator=generator,
            **{kind: given.pop(kind) if kind in given else read(name) for kind, read in own.items() if kind in used},
            shard=self._shards[name],
            others=given,
        )

    def set_masks(self, masks: Mapping[str, Tensor], *, record: Record | None = None) -> tuple[LayerChange, ...]:
        """Replace masks by those that were found elsewhere, as one update, and return what changed in each layer.

        Weights outside of them become zero, weights that were inactive start at zero. The number of active weights is
        that of the masks. On any error nothing is changed; interruptions are met as in `rewire`.

        Args:
            masks: Masks of some or all masked weights by name, bool, of the whole weight's shape; the same in every
                process.
            record: See `rewire`.

        Raises:
            ValueError: If a mask belongs to no masked weight, or has another shape.
            TypeError: If it is no bool tensor.
        """
        self.complete_update()
        check_masks(masks, {name: self._parameters[name].shape for name in self._masks.names})
        rewiring = replacement(masks, {name: self._masks.whole(name).cpu() for name in masks}, self._packed_part)
        self._carry_out(DecidedUpdate(rewiring, self._generator.get_state(), record))
        self._masks.are_applied([*masks])
        return rewiring.changes

    def _packed_part(self, name: str, whole: Tensor) -> Tensor:
        part = local_part(whole, self._parameters[name])
        return pack_mask(part.to(to_local(self._parameters[name]).device))

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
        self._mask_version += 1
        update.is_applied = True
