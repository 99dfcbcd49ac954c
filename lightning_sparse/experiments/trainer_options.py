"""Options of the Trainer with which a study is run in another way than the paper's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any
from urllib.parse import quote

import torch

from lightning_sparse._compat import Trainer
from lightning_sparse.validation.errors import InvalidValueError

# A run sets these itself: what it logs, saves and shows is read again. One that is stopped by the clock has no result.
# Several nodes would have to be started as such, and share their results.
_TAKEN = {
    *("callbacks", "logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"),
    *("max_time", "num_nodes"),
}
# With these, a run may be too short to learn anything.
_SHORTER = {
    *("fast_dev_run", "limit_test_batches", "limit_train_batches", "max_epochs", "max_steps", "overfit_batches"),
}
_LONGEST_NAME = 100  # most file systems allow 255 bytes


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Raise a ValueError unless these are options that the Trainer has and a run doesn't need for itself."""
    known = set(signature(Trainer).parameters) - _TAKEN
    for name in options:
        if name not in known:
            raise InvalidValueError(
                expected="an option of the Trainer that a run leaves open",
                got=repr(name),
                cure=f"one of {', '.join(sorted(known))}",
            )


def process_count(options: Mapping[str, Any]) -> int:
    """Return how many processes train together with these options, each with its part of a batch.

    >>> process_count({"devices": "0,1"}), process_count({"devices": 4}), process_count({})
    (2, 4, 1)
    """
    devices = options.get("devices", 1)
    if devices in (-1, "-1", "auto"):
        return 1 if options.get("accelerator") == "cpu" else max(1, torch.cuda.device_count())
    if isinstance(devices, str) and "," in devices:
        return len([each for each in devices.split(",") if each.strip()])
    return len(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else int(devices)


def may_shorten(options: Mapping[str, Any]) -> bool:
    """Tell whether these options may make a run shorter than its protocol."""
    return not _SHORTER.isdisjoint(options)


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options as arguments of the command line.

    >>> as_arguments({"precision": "bf16-mixed", "devices": [0, 1]})
    ['--trainer.precision=bf16-mixed', '--trainer.devices=[0, 1]']
    """
    return [f"--trainer.{name}={_text(value)}" for name, value in options.items()]


def as_name(options: Mapping[str, Any]) -> str:
    """Return options as a part of a folder's name: different ones for different options, in whichever order.

    >>> as_name({"precision": "bf16-mixed", "devices": 2})
    'devices=2+precision=bf16-mixed'
    """
    name = "+".join(f"{option}={quote(_text(options[option]), safe='')}" for option in sorted(options))
    # A hash of what would be too long for a name.
    return name if len(name) <= _LONGEST_NAME else hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
