"""Masks bound to a model and its optimizers, for any PyTorch loop."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.budget import Density, initial_counts
from lightning_sparse.maskable import Patterns, as_patterns, find_weights
from lightning_sparse.signals import Signals
from lightning_sparse.topology.layer import LayerView, LazyLayers
from lightning_sparse.topology.packing import pack_mask, unpack_mask
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.recipes import as_recipe
from lightning_sparse.topology.rewire import Recipe, rewire_into
from lightning_sparse.topology.select import top_k_mask


@dataclass(frozen=True)
class LayerDensity:
    """How much of one weight is active.

    Attributes:
        shape: Shape of the weight, `(out, in, *kernel)`.
        size: Number of weights.
        active: Number of active weights.
        dense: Whether it is to stay dense.
    """

    shape: tuple[int, ...]
    size: int
    active: int
    dense: bool

    @property
    def density(self) -> float:
        """Active fraction, in [0, 1]."""
        return self.active / self.size


class SparseNetwork:
    """A model whose weights are sparse, and stay as sparse while they train and move.

    The weights remain ordinary parameters of an ordinary module. Initially every layer gets a random mask with an
    exact number of active weights (biases and normalization stay dense: Dettmers & Zettlemoyer 2019, section 3.2).

    Args:
        model: Any module; its weights are zeroed where they are inactive.
        density: Fraction in (0, 1] of the maskable weights that are active, in all exactly `round(density * N)`; or a
            mapping of layer patterns to densities, of which the first match counts.
        distribution: How the active weights are spread over layers: "uniform" (the paper), "erdos_renyi" or
            "erdos_renyi_kernel".
        include: Mask these instead of all linear and convolutional layers: globs on layer, parameter or type names,
            or module types. Also the way to mask LSTM or attention weights.
        exclude: Leave these out, likewise; they don't count in N.
        dense: These stay dense, likewise, but count in N: the other layers share what is left of the budget.
        minimum: No layer has fewer active weights than this.
        seed: Of the random masks and of random growth; default: PyTorch's current initial seed.
        state: What `state_dict` returned, to go on from instead of random masks. Load the model's weights before:
            random masks would zero some of them.

    Raises:
        ValueError: If nothing matches, or the density is out of reach (with the feasible range).

    >>> network = SparseNetwork(torch.nn.Linear(40, 10), density=0.05)
    >>> network.layers["weight"].active, network.density
    (20, 0.05)
    """

    def __init__(
        self,
        model: nn.Module,
        density: Density = 0.05,
        *,
        distribution: str = "uniform",
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        dense: Patterns | None = None,
        minimum: int = 1,
        seed: int | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        check_seed(seed)
        weights = find_weights(model, include, exclude)
        kept_dense = as_patterns(dense)
        self.model = model
        self._active = initial_counts(weights, density, distribution, kept_dense, minimum)
        self._parameters = {name: weight.parameter for name, weight in weights.items()}
        self._minimum = minimum
        self._generator = _own_generator(torch.initial_seed() if seed is None else seed)
        # Masks have the dtype and device of their weight: multiplying by them is then the fastest way to apply them.
        self._masks = {
            name: torch.zeros_like(weight.parameter, requires_grad=False)
            for name, weight in weights.items()
            if not any(map(weight.matches, kept_dense))
        }
        self._signals = Signals({name: self._parameters[name] for name in self._masks})
        if state is None:
            self._draw_masks()
        else:
            self.load_state_dict(state)

    def _draw_masks(self) -> None:
        for name, mask in self._masks.items():
            noise = torch.rand(mask.shape, generator=self._generator)
            mask.copy_(top_k_mask(noise, self._active[name]))
        self.enforce()

    @property
    def masks(self) -> dict[str, Tensor]:
        """Copies of the masks by parameter name: bool, the weight's shape and device, True = active."""
        return {
            name: self._masks[name].bool() if name in self._masks else torch.ones_like(parameter, dtype=torch.bool)
            for name, parameter in self._parameters.items()
        }

    @property
    def layers(self) -> dict[str, LayerDensity]:
        """Sizes and active counts by parameter name, in the order of the model."""
        return {
            name: LayerDensity(
                tuple(parameter.shape), parameter.numel(), self._active[name], dense=name not in self._masks
            )
            for name, parameter in self._parameters.items()
        }

    @property
    def density(self) -> float:
        """Active fraction of all maskable weights, in (0, 1]."""
        return sum(self._active.values()) / sum(parameter.numel() for parameter in self._parameters.values())

    @property
    def steps(self) -> int:
        """Steps of the attached optimizer; with several, those of the busiest one."""
        return self._signals.steps

    def attach(self, optimizer: Optimizer, *, track_momentum: bool = True, track_gradients: bool = False) -> None:
        """Keep inactive weights at exactly zero after every step of this optimizer, and read momentum from it.

        Gradients are left alone: growth needs the momentum of inactive weights.

        Args:
            optimizer: An optimizer that steps some or all of the masked weights. Call once for each.
            track_momentum: Where the optimizer keeps no momentum, keep an exponential moving average of gradients
                (smoothing factor 0.9, one tensor per weight) in its place.
            track_gradients: Hold on to the gradients of each step until the next one, for a recipe that decides by
                them after they were set to None.

        Raises:
            ValueError: If the optimizer steps none of the masked weights or is attached already.
        """
        self._signals.attach(
            optimizer, track_momentum=track_momentum, track_gradients=track_gradients, after_step=self._enforce
        )

    def is_stepped_by(self, optimizer: Optimizer) -> bool:
        """Tell whether the optimizer steps at least one masked weight."""
        return bool(self._signals.names_stepped_by(optimizer))

    @property
    def unattached(self) -> list[str]:
        """Names of the masked weights that no attached optimizer steps: they could not train."""
        return [name for name in self._masks if not self._signals.is_stepped(name)]

    def detach(self) -> None:
        """Undo every `attach`; the masks stay, and so do the averages kept in place of momentum."""
        self._signals.detach()

    def enforce(self) -> None:
        """Set every inactive weight to zero. After `attach` this happens by itself after every optimizer step."""
        self._enforce(self._masks)

    @torch.no_grad()
    def _enforce(self, names: Iterable[str]) -> None:
        parameters: list[Tensor] = []
        masks: list[Tensor] = []
        for name in names:
            parameters.append(self._parameters[name])
            masks.append(self._mask(name))
        if parameters:
            torch._foreach_mul_(parameters, masks)

    def _mask(self, name: str) -> Tensor:
        """Return the mask where its weight is now: models move and change their dtype."""
        parameter, mask = self._parameters[name], self._masks[name]
        if mask.device != parameter.device or mask.dtype != parameter.dtype:
            mask = self._masks[name] = mask.to(parameter.device, parameter.dtype)
        return mask

    def rewire(self, recipe: str | Recipe, prune_rate: float) -> tuple[LayerChange, ...]:
        """Update the topology once and return what changed in each layer; the number of active weights stays.

        Pruned weights become zero, grown weights start at zero (for those pruned in the same update the recipe may
        say otherwise). On any error nothing is changed.

        Args:
            recipe: The rules, from `lightning_sparse.topology.recipes` (also by name) or your own.
            prune_rate: Fraction in [0, 1] of each layer's active weights to prune.

        Raises:
            ValueError: If the prune rate is out of range or a rule returns something unusable.
            MissingSignalError: If a rule needs momentum or gradients before there are any.
            NonFiniteError: If a weight, or a signal that a rule depends on, is NaN or infinite.
        """
        recipe = as_recipe(recipe)
        before = self._generator.get_state()
        try:
            with torch.no_grad():
                # Packed, the new masks of all layers together are smaller than a single layer's weight.
                layers = LazyLayers([partial(self._view, name, recipe.signals) for name in self._masks])
                rewiring = rewire_into(layers, recipe, prune_rate, store=pack_mask, minimum=self._minimum)
        except BaseException:
            self._generator.set_state(before)
            raise
        for change in rewiring.changes:
            self._put(change.name, rewiring.survivors[change.name], rewiring.masks[change.name])
            self._active[change.name] = change.active
        return rewiring.changes

    @torch.no_grad()
    def _put(self, name: str, survivors: Tensor, mask: Tensor) -> None:
        parameter = self._parameters[name]
        parameter.mul_(unpack_mask(survivors, parameter.shape).to(parameter.dtype))
        self._masks[name].copy_(unpack_mask(mask, parameter.shape))

    def _view(self, name: str, signals: frozenset[str]) -> LayerView:
        return LayerView(
            name=name,
            weight=self._parameters[name].detach(),
            mask=self._mask(name).bool(),
            generator=self._generator,
            momentum=self._signals.momentum(name) if "momentum" in signals else None,
            gradient=self._signals.gradient(name) if "gradient" in signals else None,
        )

    def state_dict(self, *, gradients: bool = False) -> dict[str, Any]:
        """Return copies of masks, random state and averages; tensors and plain Python values only.

        Args:
            gradients: Whether to add the gradients of the last step, which an exact resume needs if the recipe
                decides by gradients.
        """
        return {
            "masks": {name: pack_mask(mask.bool()).cpu() for name, mask in self._masks.items()},
            "shapes": {name: list(mask.shape) for name, mask in self._masks.items()},
            "generator": self._generator.get_state(),
            **self._signals.state_dict(gradients=gradients),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; weights are zeroed where it says that they are inactive.

        Raises:
            ValueError: If the state lacks masks, has others, or has another number of active weights than this
                network's density gives; nothing is changed then.
        """
        masks = self._checked_masks(state)
        self._signals.check_state_dict(state)
        try:
            torch.Generator().set_state(state["generator"])
        except (TypeError, RuntimeError) as error:
            raise ValueError(
                f"Expected a generator's state; got a damaged one ({error}). Cure: load another."
            ) from error
        for name, mask in masks.items():
            self._masks[name].copy_(mask)
            self._active[name] = int(torch.count_nonzero(mask))
        self._generator.set_state(state["generator"])
        self._signals.load_state_dict(state)
        self.enforce()

    def _checked_masks(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        expected = {"masks", "shapes", "generator", "steps", "averages", "gradients"}
        if missing := expected - set(state):
            raise ValueError(
                f"Expected a state with {sorted(expected)}; got none of {sorted(missing)}. "
                "Cure: load what state_dict() of a SparseNetwork returned."
            )
        ours = {name: list(mask.shape) for name, mask in self._masks.items()}
        if state["shapes"] != ours or set(state["masks"]) != set(ours):
            raise ValueError(
                f"Expected masks of {_briefly(ours)}; got {_briefly(state['shapes'])}. Cure: load the state of a run "
                "with the same model and the same include, exclude and dense."
            )
        masks = {name: unpack_mask(packed, tuple(ours[name])) for name, packed in state["masks"].items()}
        active = sum(int(torch.count_nonzero(mask)) for mask in masks.values())
        budget = sum(self._active[name] for name in self._masks)
        if active != budget:
            raise ValueError(
                f"Expected masks with {budget} active weights, this network's budget; got {active}. "
                "Cure: give the density of the run that the state comes from."
            )
        return masks


def check_seed(seed: int | None) -> int | None:
    """Return the seed.

    Raises:
        ValueError: If it is neither an integer nor None.
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ValueError(
            f"Expected an integer as seed; got {seed!r}. Cure: None takes the seed that PyTorch was given."
        )
    return seed


def _own_generator(seed: int) -> torch.Generator:
    """Return a generator whose stream differs from that of PyTorch's global one with the same seed.

    With the same stream, the noise that picks a layer's first mask would be the very noise that its weights were drawn
    from: the mask would keep the largest initial weights, all of one sign.
    """
    digest = hashlib.blake2b(f"lightning_sparse masks {seed}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def _briefly(shapes: Mapping[str, Sequence[int]]) -> str:
    listed = [f"{name} {tuple(shape)}" for name, shape in shapes.items()]
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
