"""The sparse network that a fit starts with: restored, kept from an earlier fit, taken over, or with new masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.callbacks.sparse_training.compatibility import (
    check_finetuning,
    check_was_dense,
    fraction_of_nonzero,
)
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.known_masks.handover import renamed_state, same_parameters
from lightning_sparse.network.known_masks.saved_masks import MaskSource
from lightning_sparse.selection.obstacles import FROZEN
from lightning_sparse.selection.patterns import Patterns
from lightning_sparse.selection.weights import weights_by_reason


class MasksAtStart(NamedTuple):
    """Where masks may come from, in the order of precedence; new ones are drawn if all are None.

    Attributes:
        restored: State of the callback from the checkpoint to resume from.
        kept: Network of the callback's earlier fit, for a module with the same parameters.
        taken_over: Masks that the user gave.
    """

    restored: Mapping[str, Any] | None
    kept: SparseNetwork | None
    taken_over: MaskSource | None


def starting_network(
    trainer: Trainer, model: LightningModule, at_start: MasksAtStart, seed: int | None, **options: Any
) -> SparseNetwork:
    """Return the network to train, the same on all ranks.

    Args:
        trainer: Trainer that starts a fit.
        model: Module to train.
        at_start: Masks that there are already.
        seed: Seed for new masks. Default: the seed of PyTorch.
        options: Options of `SparseNetwork`.

    Raises:
        ValueError: If no weight can be masked, the density is out of reach, the state or the masks are those of another
            model, or the weights are sparse already.
        MisconfigurationException: If a callback unfreezes layers that would have been masked.
    """
    # No call but that of SparseNetwork may mention the options: the command line follows them through it.
    include, exclude = options["include"], options["exclude"]
    restored, kept, masks = at_start
    state = names = nonzero = None
    if restored is not None:
        state = restored["network"]
        masks = None if masks is None else state  # with its density, whatever the user gave at first
    elif kept is not None and kept.model is model:
        kept.check_weights()
        check_finetuning(trainer, model, kept, include, exclude)
        return kept
    elif kept is not None and (names := same_parameters(kept, model)) is not None:
        masks = {names[name]: mask for name, mask in kept.masks.items() if kept.local_mask(name) is not None}
    elif masks is None:
        nonzero = fraction_of_nonzero(model, include, exclude)
        seed = trainer.strategy.broadcast(torch.initial_seed() if seed is None else seed)
    network = SparseNetwork(model, **options, seed=seed, masks=masks, state=state)
    if names is not None and kept is not None:
        network.load_state_dict(renamed_state(kept.state_dict(), network, names))
    if nonzero is not None:
        check_was_dense(nonzero, network.density)
    check_finetuning(trainer, model, network, include, exclude)
    return network


def weights_at_stake(
    model: nn.Module, include: Patterns | None, exclude: Patterns | None, *, takes_masks_over: bool
) -> list[nn.Parameter]:
    """Return the weights that may be masked when a fit starts, and that it has to restore if it fails.

    Args:
        model: Module to train.
        include: Patterns of weights to mask.
        exclude: Patterns of weights to leave out.
        takes_masks_over: Whether masks are given, which may be those of any other weights, too.
    """
    if not takes_masks_over:
        return [weight.parameter for weight in weights_by_reason(model, include, exclude).values()]
    return [
        weight.parameter
        for reason in ("", FROZEN)
        for weight in weights_by_reason(model, "*", exclude, reason).values()
    ]
