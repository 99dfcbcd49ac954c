"""What the processes of a run tell each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lightning_sparse._compat import Trainer
from lightning_sparse.validation.errors import InvalidStateError

_Result = TypeVar("_Result")


def run_on_all_ranks(trainer: Trainer, function: Callable[[], _Result]) -> list[_Result]:
    """Call a function in every process and return what it returns in each; what it raises in one, all raise.

    Args:
        trainer: In a run. All of its processes have to be here.
        function: Doesn't talk to other processes itself. Returns what can be pickled.

    Raises:
        Exception: What the function raises.
        RuntimeError: If it raises in another process.
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
                expected="all ranks to finish", got=f"an error on rank {rank}, {message}", cure="mend that error"
            )
    return [result for result, _ in gathered]
