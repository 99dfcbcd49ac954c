"""Run a model as it is written, for a look at its layers, and leave no trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def plain_passes(model: nn.Module) -> Iterator[nn.Module]:
    """Yield what to call: the model in evaluation mode, without gradients, nothing of it compiled.

    Compiled code calls no hooks and has no layers. Everything is as it was afterwards.

    Args:
        model: Any module, or what `torch.compile` made of one.
    """
    with ExitStack() as undo:
        plain = _original(model)
        for module in [each for each in plain.modules() if _original(each) is each]:
            undo.callback(setattr, module, "training", module.training)
            _replace(undo, module._modules, {name: _original(child) for name, child in module._modules.items()})
            own = vars(module)
            if own.get("_compiled_call_impl") is not None:  # by Module.compile
                _replace(undo, own, {"_compiled_call_impl": None})
            forward = getattr(own.get("forward"), "_torchdynamo_orig_callable", None)
            if forward is not None:  # by Lightning, of a compiled LightningModule
                _replace(undo, own, {"forward": forward})
        plain.eval()
        undo.enter_context(torch.no_grad())
        yield plain


def _original(module: Any) -> Any:
    """Return what `torch.compile` wraps; anything else itself."""
    while hasattr(module, "_orig_mod"):
        module = module._orig_mod
    return module


def _replace(undo: ExitStack, place: dict[str, Any], new: dict[str, Any]) -> None:
    undo.callback(place.update, {name: place[name] for name in new})
    place.update(new)
