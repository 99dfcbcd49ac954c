"""Which of PyTorch's modes are entered for a while: `no_grad`, autocast and their like."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_MODES: list[tuple[Any, str]] = [
    (torch.no_grad, "__enter__"),
    (torch.enable_grad, "__enter__"),
    (torch.set_grad_enabled, "__init__"),
    (torch.inference_mode, "__enter__"),
    (torch.autocast, "__enter__"),
]


@contextmanager
def entered_modes() -> Iterator[list[str]]:
    """Give a list of the names of modes that this thread enters in the block, which a graph would leave out."""
    entered: list[str] = []
    own = threading.get_ident()

    def noting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == own:
                entered.append(name)
            return original(self, *args, **kwargs)

        return call

    originals = [vars(kind).get(method) for kind, method in _MODES]
    for kind, method in _MODES:
        setattr(kind, method, noting(kind.__name__, getattr(kind, method)))
    try:
        yield entered
    finally:
        for (kind, method), original in zip(_MODES, originals, strict=True):
            if original is None:
                delattr(kind, method)  # that of its base class shows again
            else:
                setattr(kind, method, original)
