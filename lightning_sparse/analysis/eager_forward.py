"""Eager forward passes, whose layers call their hooks, through models that may be compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def eager_evaluation(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the model to call: in evaluation mode, without gradients, no part of it compiled.

    Compiled code calls no hooks and has no layers. Modes and compiled parts are restored afterwards.

    Args:
        model: Any module, compiled or not.
    """
    with ExitStack() as undo:
        eager = _original(model)
        for module in [module for module in eager.modules() if _original(module) is module]:
            undo.callback(setattr, module, "training", module.training)
            _replace(undo, module._modules, {name: _original(child) for name, child in module._modules.items()})
            own = vars(module)
            if own.get("_compiled_call_impl") is not None:  # by Module.compile
                _replace(undo, own, {"_compiled_call_impl": None})
            forward = getattr(own.get("forward"), "_torchdynamo_orig_callable", None)
            if forward is not None:  # by Lightning, of a compiled LightningModule
                _replace(undo, own, {"forward": forward})
        eager.eval()
        undo.enter_context(torch.no_grad())
        yield eager


def _original(module: Any) -> Any:
    """Return the module inside a wrapper of `torch.compile`; any other object itself."""
    while hasattr(module, "_orig_mod"):
        module = module._orig_mod
    return module


def _replace(undo: ExitStack, place: dict[str, Any], new: dict[str, Any]) -> None:
    undo.callback(place.update, {name: place[name] for name in new})
    place.update(new)
