"""One pair of PyTorch's global step hooks, which tells everyone who watches of every step of every optimizer."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
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


def _forget(reference: weakref.ref[StepWatcher]) -> None:
    global _watching
    _watching = tuple(each for each in _watching if each is not reference)


def _before_every_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tell = _tell_begin_outside_of_graphs if torch.compiler.is_dynamo_compiling() else _tell_begin
    return tell(optimizer, args, kwargs)


def _after_every_step(optimizer: Optimizer, *_: Any) -> None:
    tell = _tell_end_outside_of_graphs if torch.compiler.is_dynamo_compiling() else _tell_end
    tell(optimizer)


def _tell_begin(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    changed = None
    for reference in _watching:
        watcher = reference()
        if watcher is not None:
            changed = watcher.before_step(optimizer, *(changed or (args, kwargs))) or changed
    return changed


def _tell_end(optimizer: Optimizer) -> None:
    for reference in _watching:
        watcher = reference()
        if watcher is not None:
            watcher.after_step(optimizer)


# A compiled `optimizer.step` has its hooks compiled in, and what they count as constants, so that every step would need
# another graph. These are kept out of graphs, and used in a compiled step only: to call them takes microseconds.
_tell_begin_outside_of_graphs = torch.compiler.disable(_tell_begin)  # type: ignore[no-untyped-call]  # of some versions
_tell_end_outside_of_graphs = torch.compiler.disable(_tell_end)  # type: ignore[no-untyped-call]  # of some versions
