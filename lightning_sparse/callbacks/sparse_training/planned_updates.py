"""The updates that a Lightning run will have, and warnings of what is hardly meant."""

from __future__ import annotations

import warnings
from math import inf

from lightning_sparse._compat import Trainer
from lightning_sparse.callbacks.cadence import run_length
from lightning_sparse.methods.counters import Counters
from lightning_sparse.methods.planned_updates import plan_timetable
from lightning_sparse.methods.timetable import Timetable
from lightning_sparse.validation.errors import InvalidValueError


def plan_updates(trainer: Trainer, max_epochs: int | None, timetable: Timetable, counters: Counters) -> list[str]:
    """Return sentences on the updates of a run, and warn on rank zero of what is probably not meant.

    Args:
        trainer: The Trainer, at the start of training.
        max_epochs: Its limit in epochs, as the user gave it.
        timetable: Timetable of the run, which learns how long that is.
        counters: Start of sparse training, and the updates since.

    Raises:
        ValueError: If the prune rate or a density follows the length of a run without a known end.
    """
    plan = plan_timetable(timetable, run_length(trainer, max_epochs), counters)
    if timetable.total == inf and timetable.moves and not timetable.rate.is_constant:
        raise InvalidValueError(
            expected="a run of known length for a prune rate that decays",
            got=(
                f"max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}, "
                f"{trainer.num_training_batches} batches per epoch"
            ),
            cure=(
                "set max_epochs for updates in epochs, max_steps for updates in steps (or "
                "limit_train_batches), or schedule='constant'"
            ),
        )
    if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # an attribute that Lightning doesn't declare
        for complaint in plan.complaints:
            warnings.warn(complaint, stacklevel=2)
    return plan.sentences
