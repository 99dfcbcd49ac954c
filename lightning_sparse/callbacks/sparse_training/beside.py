"""Callbacks that work beside the one that trains sparsely."""

from __future__ import annotations

from lightning_sparse._compat import Callback, ConfigurationError, Trainer, callbacks_of
from lightning_sparse.callbacks.sparse_training.callback import SparseTrainingCallback


def sparse_callback(trainer: Trainer, purpose: str, beside: Callback) -> SparseTrainingCallback:
    """Return the callback that trains sparsely.

    Args:
        trainer: Trainer of the run.
        purpose: Clause on what the other callback needs it for.
        beside: The other callback.

    Raises:
        MisconfigurationException: If the Trainer has none.
    """
    sparse = [callback for callback in callbacks_of(trainer) if isinstance(callback, SparseTrainingCallback)]
    if not sparse:
        raise ConfigurationError(
            expected=f"a callback for sparse training, {purpose}",
            got="none in the Trainer",
            cure=f"add SparseMomentumCallback() to its callbacks, or leave {type(beside).__name__} out",
        )
    return sparse[0]
