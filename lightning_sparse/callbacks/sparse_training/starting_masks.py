"""The sparse network that a fit starts with: restored, kept from an earlier fit, taken over, or with new masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.callbacks.sparse_training.compatibility import check_finetuning, check_kept_weights
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.first_masks.training_signs import has_stepped, signs_of_training, warn_of_random_masks
from lightning_sparse.network.known_masks.handover import renamed_state, same_parameters
from lightning_sparse.network.known_masks.saved_masks import MaskSource
from lightning_sparse.selection.obstacles import FROZEN, examined
from lightning_sparse.selection.patterns import Patterns, as_patterns
from lightning_sparse.selection.weights import weights_by_reason
from lightning_sparse.topology.growth import random
from lightning_sparse.topology.initial_masks import as_initial_masks


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
        seed: Seed for new masks and random growth. Default: the seed of PyTorch.
        options: Options of `SparseNetwork`.

    Raises:
        ValueError: If no weight can be masked, the density is out of reach, the state or the masks are those of another
            model, or the weights are sparse already, or not those of the masks that are kept.
        MisconfigurationException: If a callback unfreezes layers that would have been masked.
    """
    # No call but that of SparseNetwork may mention the options: the command line follows them through it.
    include, exclude, initial_masks = options["include"], options["exclude"], options["initial_masks"]
    is_random = as_initial_masks(initial_masks) is random
    restored, kept, masks = at_start
    state = names = None
    if restored is not None:
        state = restored["network"]
        masks = None if masks is None else state  # with its density, whatever the user gave at first
    elif kept is not None and kept.model is model:
        kept.check_weights()
        check_kept_weights(kept)
        check_finetuning(trainer, model, kept, include, exclude)
        return kept
    elif kept is not None and (names := same_parameters(kept, model)) is not None:
        check_kept_weights(kept)
        masks = {names[name]: mask for name, mask in kept.masks.items() if kept.local_mask(name) is not None}
        options["density"] = None  # that of the masks, which a schedule may have changed
    if state is None:
        seed = trainer.strategy.broadcast(torch.initial_seed() if seed is None else seed)
    network = SparseNetwork(model, **options, seed=seed, masks=masks, state=state)
    if names is not None and kept is not None:
        network.inherit_budget(kept)
        network.load_state_dict(renamed_state(kept.state_dict(), network, names))
    elif is_random and state is None and masks is None:
        _warn_of_trained(trainer, network, kept)
    check_finetuning(trainer, model, network, include, exclude)
    return network


def _warn_of_trained(trainer: Trainer, network: SparseNetwork, kept: SparseNetwork | None) -> None:
    """Warn of new random masks for weights that the run has stepped before, unless the network itself has shown it."""
    signs = []
    if trainer.global_step and kept is None:  # else the earlier steps were those of another module
        signs.append(f"{trainer.global_step} steps that this Trainer has taken")
    weights = [each for name, each in network.maskable.items() if network.local_mask(name) is not None]
    if stepping := [type(each).__name__ for each in trainer.optimizers if any(has_stepped(each, w) for w in weights)]:
        signs.append(f"the state of {' and '.join(stepping)}, of earlier steps")
    if signs and network.density < 1 and not signs_of_training(network.model, network.maskable):
        warn_of_random_masks(signs, network.density)


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
    excluded = as_patterns(exclude)
    return [
        weight.parameter
        for weight, obstacle in examined(model)
        if obstacle in ("", FROZEN) and not weight.matches_any(excluded)
    ]
