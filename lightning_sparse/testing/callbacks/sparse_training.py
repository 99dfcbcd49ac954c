"""The contract of sparse-training callbacks."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning_sparse.testing.callbacks import ranks, resuming, stepping
from lightning_sparse.testing.callbacks.runs import Factory
from lightning_sparse.testing.contract import check, named

# These are checked for every exported callback, and for users' own.
CALLBACK_PROPERTIES = named(
    *stepping.PROPERTIES,
    *resuming.PROPERTIES,
    *ranks.PROPERTIES,
)


def check_callback(factory: Factory, **options: Any) -> None:
    """Check a sparse-training callback of your own, in short runs, against everything the library expects of one.

    Takes a few seconds. Among the runs is one of two processes.

    Args:
        factory: The callback's class, or a function that returns a new callback at every call. If it has an argument
            `density`, it is called with 0.3 and the number of active weights must match; else it must stay constant.
        options: Arguments of the factory. They must suit a model of two linear layers, `net.0` and `net.3`, with 80
            weights in all.

    Raises:
        ContractError: With every property that the callback lacks.
    """
    check("callback", partial(factory, **options) if options else factory, CALLBACK_PROPERTIES)
