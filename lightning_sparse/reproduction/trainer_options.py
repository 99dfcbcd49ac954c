"""Options of the Trainer with which a study is run in another way than the paper's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from inspect import signature
from typing import Any
from urllib.parse import quote

from lightning_sparse._compat import Trainer

# A run sets these itself: what it logs, saves and shows is read again.
_TAKEN = {"callbacks", "logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"}
_LONGEST_NAME = 100  # most file systems allow 255 bytes


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Raise a ValueError unless these are options that the Trainer has and a run doesn't need for itself."""
    known = set(signature(Trainer).parameters) - _TAKEN
    for name in options:
        if name not in known:
            raise ValueError(
                f"Expected an option of the Trainer that a run leaves open; got {name!r}. Cure: one of "
                f"{', '.join(sorted(known))}."
            )


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
