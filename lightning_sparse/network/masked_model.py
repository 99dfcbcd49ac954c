"""A model with masks on some of its weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.network.dtensor import shard_of, to_local
from lightning_sparse.network.first_masks.freshness import whole_counts
from lightning_sparse.network.masks import Masks
from lightning_sparse.selection.names import named_parameters
from lightning_sparse.selection.patterns import as_patterns
from lightning_sparse.selection.weight import Weight
from lightning_sparse.selection.weights import why_unmasked
from lightning_sparse.topology.layer import NonFiniteError
from lightning_sparse.topology.sharding import total
from lightning_sparse.validation.errors import InvalidTypeError


class MaskedModel:
    """Masks of a model's weights: applied, shown, and checked.

    Args:
        model: Any module.
        weights: The maskable weights by name.
        choice: Patterns that chose them, "include" and "exclude", and those of layers that stay "dense".
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Weight], choice: dict[str, Any]) -> None:
        self.model = model
        self._choice = choice
        dense = as_patterns(choice["dense"])
        self._parameters = {name: weight.parameter for name, weight in weights.items()}
        masked = {name: weight.parameter for name, weight in weights.items() if not weight.matches_any(dense)}
        self._masks = Masks(masked)
        self._shards = {name: shard_of(parameter) for name, parameter in masked.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: shards belong to this process."""
        return {**self.__dict__, "_shards": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shards = {name: shard_of(self._parameters[name]) for name in self._masks.names}

    @property
    def masks(self) -> dict[str, Tensor]:
        """Copies of the masks by parameter name: bool, the weight's shape and device, True = active.

        Of a sharded weight it is the whole mask, which every process must ask for.
        """
        return {
            name: self._masks.whole(name)
            if name in self._masks.names
            else torch.ones(parameter.shape, dtype=torch.bool, device=parameter.device)
            for name, parameter in self._parameters.items()
        }

    def local_mask(self, name: str) -> Tensor | None:
        """Return the mask of a weight as it is kept: 0 or 1 in the weight's dtype, the part that this process holds.

        It is no copy, and not to be written to. None for a weight that has none and is dense.
        """
        return self._masks.stored(name) if name in self._masks.names else None

    @property
    def maskable(self) -> dict[str, nn.Parameter]:
        """The weights that have a mask or are kept dense on request, by name, in the order of the model."""
        return dict(self._parameters)

    @property
    def why_unmasked(self) -> dict[str, str]:
        """Why each parameter that has no mask has none, by parameter name."""
        reasons = why_unmasked(self.model, self._choice["include"], self._choice["exclude"])
        kept = (name for name in self._parameters if name not in self._masks.names)
        # Masks may have been given for weights that the options alone leave out.
        masked = {name: reason for name, reason in reasons.items() if name not in self._parameters}
        return {**dict.fromkeys(kept, "kept dense on request"), **masked}

    @property
    def left_dense(self) -> dict[str, str]:
        """The old name of `why_unmasked`, for one more version."""
        warnings.warn("SparseNetwork.left_dense will go: use why_unmasked.", DeprecationWarning, stacklevel=2)
        return self.why_unmasked

    @property
    def is_sharded(self) -> bool:
        """Whether some masked weight is spread over processes."""
        return any(shard is not None for shard in self._shards.values())

    def enforce(self) -> None:
        """Set every inactive weight to zero. After `attach` every optimizer step does so."""
        self._masks.apply()

    def enforce_on(self, copy: nn.Module) -> None:
        """Set the same weights of a copy of the model to zero: of a moving average of its weights, for instance.

        Raises:
            ValueError: If a masked weight is missing in the copy or has another shape.
            TypeError: If it is no module.
        """
        if not isinstance(copy, nn.Module):
            raise InvalidTypeError(
                expected="a module, a copy of the masked one",
                got=repr(copy),
                cure="pass the copy itself",
            )
        self._masks.apply_to(dict(named_parameters(copy)))

    def count_outside(self) -> dict[str, int]:
        """Return how many inactive weights are not zero, by name, where there are any. Every process must call this.

        They come from other code: all steps of attached optimizers leave inactive weights at zero.
        """
        weights = {name: self._parameters[name] for name in self._masks.names}
        parts = {name: to_local(weight).detach() for name, weight in weights.items()}
        # Of those that are NaN, others tell.
        rows = [
            torch.count_nonzero(((part > 0) | (part < 0)) & ~self._masks[name]).reshape(1)
            for name, part in parts.items()
        ]
        counts = dict(zip(weights, whole_counts(rows, weights.values()), strict=True))
        return {name: count for name, (count,) in counts.items() if count}

    def check_finite(self) -> None:
        """Raise if a masked weight is NaN or infinite: masked, it would stay so. Every process must call this.

        Raises:
            NonFiniteError: With the weight's name.
        """
        for name in self._masks.names:
            parameter = self._parameters[name]
            bad = total(torch.count_nonzero(~torch.isfinite(to_local(parameter))).reshape(1), self._shards[name]).item()
            if bad:
                raise NonFiniteError(
                    expected=f"finite numbers in {name!r} to train from",
                    got=f"NaN or infinity in {int(bad)} of {parameter.numel()}",
                    cure="initialize the weight, or load one from before training diverged",
                )

    def fingerprint(self) -> Tensor:
        """Return two integers, int64, shape `(2,)`: every process that trains this network must have the same.

        The first depends on the masks, the second on the values of the masked weights. Cheap enough for every update:
        one pass over the weights, nothing is copied to the host. Of a sharded weight only the number of active
        weights counts.
        """
        return self._masks.fingerprint()
