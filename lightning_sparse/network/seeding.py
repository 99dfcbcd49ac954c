"""Seeds and the random streams that come from them."""

from __future__ import annotations

import hashlib
from numbers import Integral

import torch
from torch import Tensor

from lightning_sparse.validation.errors import InvalidValueError


def check_seed(seed: int | None) -> int | None:
    """Return the seed as Python's integer.

    Raises:
        ValueError: If it is neither an integer nor None.
    """
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InvalidValueError(
            expected="an integer as seed",
            got=repr(seed),
            cure="None takes the seed that PyTorch was given",
        )
    return int(seed)


def mask_generator(seed: int) -> torch.Generator:
    """Return a CPU generator whose stream differs from that of PyTorch's global one with the same seed.

    With the same stream, the noise that picks a layer's first mask would be the very noise that its weights were drawn
    from: the mask would keep the largest initial weights, all of one sign.
    """
    digest = hashlib.blake2b(f"lightning_sparse masks {seed}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def generator_in(state: Tensor) -> torch.Generator:
    """Return a CPU generator in a saved state.

    Raises:
        ValueError: If it is no state of one.
    """
    try:
        return torch.Generator().set_state(state)
    except (TypeError, RuntimeError) as error:
        raise InvalidValueError(
            expected="a generator's state",
            got=f"a damaged one ({error})",
            cure="load another checkpoint",
        ) from error
