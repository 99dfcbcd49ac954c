"""Global random states, which no rule may depend on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def global_states() -> dict[str, Any]:
    """Return the states of the global generators of PyTorch, NumPy and Python."""
    # NumPy's legacy global generator, as other code may use it.
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "numpy": [numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"]],
        "python": random.getstate(),
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the three global generators inside, and restore their states afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002  # as above
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002  # as above
            random.seed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002  # as above
            random.setstate(python_state)
