"""Calls that all processes of a run make together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lightning_sparse._compat import Trainer
from lightning_sparse.validation.errors import InvalidStateError

_Result = TypeVar("_Result")


def run_on_all_ranks(trainer: Trainer, function: Callable[[], _Result]) -> list[_Result]:
    """Call a function on every rank and return the results of all ranks; an error on one is raised on all.

    Args:
        trainer: Trainer of the run, all of whose processes must make this call.
        function: Function that doesn't communicate with other processes, and whose result can be pickled.

    Raises:
        Exception: If the function raises it on this rank.
        RuntimeError: If the function raises on another rank.
    """
    if trainer.world_size == 1:
        return [function()]
    failure, result = None, None
    try:
        result = function()
    except Exception as error:
        failure = error
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, (result, failure and f"{type(failure).__name__}: {failure}"))
    if failure is not None:
        raise failure
    for rank, (_, message) in enumerate(gathered):
        if message:
            raise InvalidStateError(
                expected="all ranks to finish", got=f"an error on rank {rank}, {message}", cure="fix that error"
            )
    return [result for result, _ in gathered]
