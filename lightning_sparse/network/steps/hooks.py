"""One pair of PyTorch's global step hooks, which tells everyone who watches of every step of every optimizer."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle


class StepWatcher(Protocol):
    """What is told of steps."""

    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Take note that a step begins; return other arguments for it, or None."""

    def after_step(self, optimizer: Optimizer) -> None:
        """Take note that a step has ended."""


# All that watch, and one pair of hooks for them. Not a pair for each: to remove it when its owner is collected would
# change PyTorch's dictionary while a step goes through it. References are weak, and the tuple is replaced and never
# changed, as a watcher may come or go while steps are told.
_watching: tuple[weakref.ref[StepWatcher], ...] = ()
_handles: list[RemovableHandle] = []


def watch_steps(watcher: StepWatcher) -> None:
    """Tell a watcher of every step from now on; it isn't kept alive."""
    global _watching
    if watcher not in watchers():
        _watching = (*_watching, weakref.ref(watcher, _forget))
    if not _handles:
        _make_uncompiled()
        _handles.append(register_optimizer_step_pre_hook(_before_every_step))
        _handles.append(register_optimizer_step_post_hook(_after_every_step))


def unwatch_steps(watcher: StepWatcher) -> None:
    """Tell a watcher no more."""
    global _watching
    _watching = tuple(reference for reference in _watching if reference() not in (watcher, None))
    while _handles and not _watching:
        _handles.pop().remove()


def watchers() -> Sequence[Any]:
    """Return all that watch."""
    return [watcher for reference in _watching if (watcher := reference()) is not None]


def watchers_of(optimizers: Sequence[Optimizer]) -> list[Any]:
    """Return what watches the steps of some of the optimizers."""
    return [watch for watch in watchers() if any(each in optimizers for each in watch.optimizers)]


def _forget(reference: weakref.ref[StepWatcher]) -> None:
    global _watching
    _watching = tuple(each for each in _watching if each is not reference)


def _before_every_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if torch.compiler.is_dynamo_compiling():
        return _uncompiled["first"](optimizer, args, kwargs)
    return _tell_begin(optimizer, args, kwargs)


def _after_every_step(optimizer: Optimizer, *_: Any) -> None:
    if torch.compiler.is_dynamo_compiling():
        _uncompiled["end"](optimizer)
    else:
        _tell_end(optimizer)


def _tell_begin(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    changed = None
    for reference in _watching:
        watcher = reference()
        if watcher is not None:
            changed = watcher.before_step(optimizer, *(changed or (args, kwargs))) or changed
    return changed


def _tell_end(optimizer: Optimizer, *_: Any) -> None:
    for reference in _watching:
        watcher = reference()
        if watcher is not None:
            watcher.after_step(optimizer)


def _tell_first_begin(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Tell of the first step that was compiled, and put hooks that no graph takes up in the places of ours."""
    for handle, name in zip(_handles, ("begin", "end"), strict=True):
        hooks = handle.hooks_dict_ref()
        if hooks is not None:
            hooks[handle.id] = _uncompiled[name]  # of the same size, as PyTorch goes through it just now
    return _tell_begin(optimizer, args, kwargs)


# A compiled `optimizer.step` has its hooks compiled in, and what they count as constants, so that every step would need
# another graph. These versions stay out of graphs. A call of one takes microseconds, so hooks become these when the
# first compiled step is seen. They are made when somebody watches, as it takes a second to import PyTorch's compiler.
_uncompiled: dict[str, Callable[..., Any]] = {}


def _make_uncompiled() -> None:
    for name, function in (("first", _tell_first_begin), ("begin", _tell_begin), ("end", _tell_end)):
        if name not in _uncompiled:
            _uncompiled[name] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]  # of some versions
