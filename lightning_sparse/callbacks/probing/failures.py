"""Failures beside training: a run is worth more than a measurement of it, so that they are warnings."""

from __future__ import annotations

import warnings
from weakref import WeakKeyDictionary

from lightning_sparse._compat import Trainer

# Failures that were warned of already, by Trainer.
_WARNED: WeakKeyDictionary[Trainer, set[str]] = WeakKeyDictionary()


def warn_of_failure(trainer: Trainer, subject: str, expected: str, error: Exception, cure: str) -> None:
    """Warn of a failure, unless this Trainer was warned of one of the same subject.

    Args:
        trainer: Trainer of the run.
        subject: Name of the kind of failure, of which one warning is enough.
        expected: Noun phrase for what should have happened.
        error: The failure.
        cure: Advice on how to correct it, without a full stop.
    """
    if subject not in (warned := _WARNED.setdefault(trainer, set())):
        warned.add(subject)
        got = f"{type(error).__name__}: {error}".rstrip(".")
        warnings.warn(
            f"Expected {expected}; got {got}. Training continues; this warning comes once. Cure: {cure}.",
            stacklevel=2,
        )
