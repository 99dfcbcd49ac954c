"""Options of the Trainer that users may change in a study, which is then not the paper's protocol."""

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

# A run sets these itself, as its log, checkpoints and progress are read again. A run that is stopped by a time limit
# has no result. Several nodes would have to be started by hand and to share the folder of results.
_RESERVED = {
    *("callbacks", "logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"),
    *("max_time", "num_nodes"),
}
# With these, a run may be too short to learn anything.
_SHORTENING = {
    *("fast_dev_run", "limit_test_batches", "limit_train_batches", "max_epochs", "max_steps", "overfit_batches"),
}
_LONGEST_NAME = 100  # most file systems allow 255 bytes


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Raise a ValueError unless all options belong to the Trainer and none is set by a run itself."""
    known = set(signature(Trainer).parameters) - _RESERVED
    for name in options:
        if name not in known:
            raise InvalidValueError(
                expected="an option of the Trainer that a run doesn't set itself",
                got=repr(name),
                cure=f"one of {', '.join(sorted(known))}",
            )


def process_count(options: Mapping[str, Any]) -> int:
    """Return the number of processes that train together with these options, each on its part of a batch.

    >>> process_count({"devices": "0,1"}), process_count({"devices": 4}), process_count({})
    (2, 4, 1)
    """
    devices = options.get("devices", 1)
    if devices in (-1, "-1", "auto"):
        return 1 if options.get("accelerator") == "cpu" else max(1, torch.cuda.device_count())
    if isinstance(devices, str) and "," in devices:
        return len([device for device in devices.split(",") if device.strip()])
    return len(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else int(devices)


def may_shorten(options: Mapping[str, Any]) -> bool:
    """Return whether these options may make a run shorter than its protocol."""
    return not _SHORTENING.isdisjoint(options)


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options as arguments of the command line.

    >>> as_arguments({"precision": "bf16-mixed", "devices": [0, 1]})
    ['--trainer.precision=bf16-mixed', '--trainer.devices=[0, 1]']
    """
    return [f"--trainer.{name}={_text(value)}" for name, value in options.items()]


def as_name(options: Mapping[str, Any]) -> str:
    """Return options as a part of a folder's name, which differs for different options but not for another order.

    >>> as_name({"precision": "bf16-mixed", "devices": 2})
    'devices=2+precision=bf16-mixed'
    """
    name = "+".join(f"{option}={quote(_text(options[option]), safe='')}" for option in sorted(options))
    # A name that would be too long is replaced by its hash.
    return name if len(name) <= _LONGEST_NAME else hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
