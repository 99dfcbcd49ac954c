"""The global random states: saved, restored, and seeded for a while."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy and PyTorch, as plain values and tensors.

    Those of devices are among them if something was computed there.
    """
    version, words, gauss = random.getstate()
    kind, numbers, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # the state that the user's code draws from
    states = {
        "python": [version, list(words), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(numbers, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # of PyTorch
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Any]) -> None:
    """Restore the states that `random_states` returned, of devices as far as there are any."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, numbers, *rest = states["numpy"]
    np.random.set_state((kind, numbers.numpy().astype(np.uint32), *rest))  # noqa: NPY002  # as above
    torch.set_rng_state(states["torch"].clone())
    if torch.cuda.is_available():
        for device, state in zip(range(torch.cuda.device_count()), states.get("cuda", ()), strict=False):
            torch.cuda.set_rng_state(state, device)
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators inside, and restore their states afterwards."""
    states = random_states()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # as above
        # Not torch.manual_seed: where no device is in use yet, that would seed it when it comes into use.
        torch.default_generator.manual_seed(seed)
        if "cuda" in states:
            torch.cuda.manual_seed_all(seed)
        if "mps" in states:
            torch.mps.manual_seed(seed)
        yield
    finally:
        set_random_states(states)


def seed_of(purpose: str, seed: int, index: int) -> int:
    """Return the seed of one stream of random numbers, in [0, 2**32), which differ by purpose, seed and round."""
    digest = hashlib.blake2b(f"lightning_sparse {purpose} {seed} {index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
