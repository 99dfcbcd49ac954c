"""The contract of sparse-training callbacks."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning_sparse.testing.callbacks import ranks as callback_ranks
from lightning_sparse.testing.callbacks import resuming as callback_resume
from lightning_sparse.testing.callbacks import stepping as callback_steps
from lightning_sparse.testing.callbacks.runs import Factory
from lightning_sparse.testing.contract import check, named

# Whatever is added here holds for every exported callback, and is asked of every user's.
CALLBACK_PROPERTIES = named(
    *callback_steps.PROPERTIES,
    *callback_resume.PROPERTIES,
    *callback_ranks.PROPERTIES,
)


def check_callback(factory: Factory, **options: Any) -> None:
    """Check a sparse-training callback of your own, in short runs, against everything the library expects of one.

    Takes a few seconds. Among the runs is one of two processes.

    Args:
        factory: What returns a new callback at every call: its class, or a function. If it has an argument `density`,
            it is called with 0.3 and the active weights are compared with that; else they only have to stay as many.
        options: Given to the factory. They must suit a model of two linear layers, `net.0` and `net.3`, with 80
            weights in all.

    Raises:
        ContractError: With every property that the callback lacks.
    """
    check("callback", partial(factory, **options) if options else factory, CALLBACK_PROPERTIES)
