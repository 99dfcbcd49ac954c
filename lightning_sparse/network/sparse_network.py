"""Masks bound to a model and its optimizers, for any PyTorch loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.network.budget import Density, optional_density
from lightning_sparse.network.changes.layer_groups import feasible_density, group_densities, has_density
from lightning_sparse.network.coverage import warn_of_dense_weights, warn_of_filled_zeros
from lightning_sparse.network.first_masks.make_masks import make_masks
from lightning_sparse.network.known_masks.handover import CheckpointSource, network_from_checkpoint
from lightning_sparse.network.known_masks.saved_masks import MaskSource
from lightning_sparse.network.multiplications import Multiplications
from lightning_sparse.network.seeding import check_seed, mask_generator
from lightning_sparse.network.signals import Signals
from lightning_sparse.network.starting_point import starting_point
from lightning_sparse.network.state import check_network_state, under_written_names, with_checksum
from lightning_sparse.network.stepped_model import SteppedModel
from lightning_sparse.network.table import network_table
from lightning_sparse.selection.patterns import Patterns
from lightning_sparse.topology.initial_masks import as_initial_masks
from lightning_sparse.topology.layer import LayerView
from lightning_sparse.validation.deprecation import renamed_argument


class SparseNetwork(SteppedModel):
    """A model whose weights are sparse, and stay as sparse while they train and move.

    The weights remain ordinary parameters of an ordinary module. Initially every layer gets a random mask with an
    exact number of active weights (biases and normalization stay dense: Dettmers & Zettlemoyer 2019, section 3.2).

    Args:
        model: Any module; its weights are zeroed where they are inactive.
        density: Fraction in (0, 1] of the maskable weights that are active, in all exactly `round(density * N)`; or a
            mapping of layer patterns to densities, of which the first match counts.
            Default: 0.05.
        sparsity: 1 - density, to give instead of it; or a mapping of layer patterns to sparsities.
        distribution: Distribution of the active weights over layers: "uniform" (the paper), "erdos_renyi" or
            "erdos_renyi_kernel".
        include: Mask these instead of all linear and convolutional layers: globs on layer, parameter or type names,
            or module types, which mean the module's `weight` where it has one. Also the way to mask LSTM or attention
            weights: `["default", "LSTM"]` adds those to the default.
        exclude: Patterns of weights to leave out; they don't count in N.
        dense: Patterns of layers that stay dense but count in N: the other layers share the rest of the budget.
        min_active: Minimum number of active weights per layer.
        initial_masks: Weights that are active at first, in the numbers that density and distribution give each layer:
            "random"; "magnitude", the largest, for weights that were trained before; "signed_magnitude"; the import
            path of a function; or a function of one `LayerView` that returns scores, of which the highest count.
        seed: Seed for the random masks and random growth; default: PyTorch's current initial seed.
        masks: Masks to take over, with their density, instead of drawing some: a mapping of parameter names to bool
            tensors, True = active; another `SparseNetwork`; or the path of a checkpoint. Weights outside become zero.
            Names may have a prefix more or less than the model's; frozen weights may have masks, too.
        state: Result of `state_dict`, to restore instead of drawing masks. Load the model's weights before:
            new masks would zero some of them.
        minimum: Old name of `min_active`, for one more version.

    Raises:
        ValueError: If nothing matches, the density is out of reach (with the feasible range), or masks don't fit.

    >>> network = SparseNetwork(torch.nn.Linear(40, 10), density=0.05)
    >>> network.layers["weight"].active, network.density
    (20, 0.05)
    """

    def __init__(
        self,
        model: nn.Module,
        density: Density | None = None,
        *,
        sparsity: Density | None = None,
        distribution: str = "uniform",
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        dense: Patterns | None = None,
        min_active: int = 1,
        initial_masks: str | Callable[[LayerView], Tensor] = "random",
        seed: int | None = None,
        masks: MaskSource | None = None,
        state: Mapping[str, Any] | None = None,
        minimum: int | None = None,
    ) -> None:
        min_active = renamed_argument("minimum", minimum, "min_active", min_active, default=1)
        rule, seed = as_initial_masks(initial_masks), check_seed(seed)
        choice = {"include": include, "exclude": exclude, "dense": dense}
        start = starting_point(model, masks, choice, optional_density(density, sparsity), distribution, min_active)
        super().__init__(model, start.weights, start.choice, start.active)
        self._min_active = int(min_active)
        self._generator = mask_generator(torch.initial_seed() if seed is None else seed)
        masked = {name: self._parameters[name] for name in self._masks.names}
        self._signals, self._multiplications = Signals(masked), Multiplications(masked)
        if state is not None:
            if masks is not None:  # those of the state itself, whose budget may have changed
                self._initial_budget = state.get("initial_budget", self._initial_budget)
            self.load_state_dict(state)
        else:
            if start.masks is None:
                make_masks(model, self._masks, self._active, rule, self._generator)
            else:
                self._masks.set_all(start.masks)
            self.enforce()
        if self.density < 1:
            warn_of_dense_weights(model, masked, self._choice)
            warn_of_filled_zeros({name: start.weights[name] for name in masked})

    @classmethod
    def from_checkpoint(
        cls, model: nn.Module, path: CheckpointSource, *, weights: bool = False, **options: Any
    ) -> SparseNetwork:
        """Return a network with the masks of a checkpoint, its random state, and its averages in place of momentum.

        No weight is lost: weights that are not zero where the masks are inactive were not saved with them, which is an
        error. `SparseNetwork(model, masks=path)` applies the masks alone, to weights of any origin.

        Args:
            model: Module that was trained, the network in it, or one that has all of its masked weights.
            path: Path of a Lightning checkpoint of a run with one of this package's callbacks, or of a file with what
                `state_dict` returned; or the content of such a file.
            weights: Whether to load the model's weights from the Lightning checkpoint, too.
            options: Arguments of the constructor. `exclude` leaves out a layer that is new, or that is gone.

        Raises:
            ValueError: If the file is damaged, has no masks, or doesn't fit the model. Then nothing is changed.
            FileNotFoundError: If there is no such file.
        """
        return network_from_checkpoint(cls, model, path, weights, options)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it is attached to no optimizer."""
        return {**super().__getstate__(), "_generator": self._generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._generator = torch.Generator()
        self._generator.set_state(state["_generator"])
        if "_multiplications" not in state:  # of an older version
            self._multiplications = Multiplications({name: self._parameters[name] for name in self._masks.names})

    def feasible_density(self, density: Density) -> Density:
        """Return the nearest density (or one per pattern) that can be reached, as frozen layers stay as they are."""
        trained = [name for name in self._masks.names if self._parameters[name].requires_grad]
        return feasible_density(self.model, density, trained, self._sizes, self._active, self._min_active)

    def has_density(self, density: Density) -> bool:
        """Tell whether the numbers of active weights are those of a density, or of one per pattern."""
        return has_density(self.model, density, self._sizes, self._active)

    def group_densities(self, patterns: object) -> dict[str, float]:
        """Return the active fraction of the layers that match each of a mapping's patterns first; "" stands for all."""
        return group_densities(self.model, patterns, self._sizes, self._active)

    def inherit_budget(self, other: SparseNetwork) -> None:
        """Count as begun with the number of active weights that another network with the same parameters began with."""
        self._initial_budget = other._initial_budget

    def draw_seed(self) -> int:
        """Return a new seed from the network's own random numbers: for a method's, which then depend on its seed, too.

        The random state changes with each call; it is saved, and the same in every process.
        """
        return int(torch.randint(2**62, (1,), generator=self._generator, device="cpu"))

    def __repr__(self) -> str:
        return network_table(type(self.model).__name__, self.layers, self.overall_density)

    def state_dict(self, *, gradients: bool = False) -> dict[str, Any]:
        """Return copies of masks, random state, averages and known multiplications; tensors and plain values only.

        The state doesn't depend on how weights are sharded. Where they are, every process must call this.

        Args:
            gradients: Whether to add the gradients of the last step, which an exact resume needs if the recipe
                decides by gradients.
        """
        budget = sum(self._active.values())
        return with_checksum(
            {
                "masks": self._masks.packed(),
                "shapes": {name: list(self._parameters[name].shape) for name in self._masks.names},
                "generator": self._generator.get_state(),
                **self._signals.state_dict(gradients=gradients),
                **self._multiplications.state_dict(),
                **({} if budget == self._initial_budget else {"initial_budget": self._initial_budget}),
            }
        )

    @torch.inference_mode(False)  # what is made in an evaluation must serve in training too
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; weights are zeroed where it says that they are inactive.

        Raises:
            ValueError: If the state is damaged, or that of another model, choice of layers or density. Then nothing
                is changed.
        """
        shapes = {name: self._parameters[name].shape for name in self._masks.names}
        state = under_written_names(state, list(shapes))
        always = sum(active for name, active in self._active.items() if name not in shapes)
        counts = check_network_state(state, shapes, self._initial_budget, always)
        self._signals.check_state_dict(state)
        self._multiplications.check_state_dict(state)
        self._masks.load(state["masks"])
        self._active.update(counts)
        self._mask_version += 1
        self._generator.set_state(state["generator"])
        self._signals.load_state_dict(state)
        self._multiplications.load_state_dict(state)
        self.enforce()
