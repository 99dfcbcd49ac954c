"""The sparse network that a fit starts with: restored, kept from an earlier fit, or with new masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.callbacks.sparse_training.compatibility import check_was_dense, fraction_of_nonzero
from lightning_sparse.network import SparseNetwork


def starting_network(
    trainer: Trainer,
    model: LightningModule,
    kept: SparseNetwork | None,
    restored: Mapping[str, Any] | None,
    seed: int | None,
    **options: Any,
) -> SparseNetwork:
    """Return the network to train, the same on all ranks.

    Args:
        trainer: Trainer that starts a fit.
        model: Module to train.
        kept: Network of the callback's earlier fit, if there was one.
        restored: State of the callback from the checkpoint to resume from, if there is one.
        seed: Seed for new masks. Default: the seed of PyTorch.
        options: Options of `SparseNetwork`.

    Raises:
        ValueError: If no weight can be masked, the density is out of reach, the state is that of another model, or the
            weights are sparse already.
    """
    if restored is None and kept is not None and kept.model is model:
        kept.check_weights()
        return kept
    # No call but that of SparseNetwork may mention the options: the command line follows them through it.
    include, exclude = options["include"], options["exclude"]
    state, nonzero = None if restored is None else restored["network"], None
    if state is None:
        nonzero = fraction_of_nonzero(model, include, exclude)
        seed = trainer.strategy.broadcast(torch.initial_seed() if seed is None else seed)
    network = SparseNetwork(model, **options, seed=seed, state=state)
    if nonzero is not None:
        check_was_dense(nonzero, network.density)
    return network
