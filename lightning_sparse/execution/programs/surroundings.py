"""What is attached to the modules of a graph: hooks, other forward passes, parameters."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, is_
from types import MethodType
from typing import Any

from torch import nn

from lightning_sparse.execution.forward_replacement import ReplacedForward, is_of_class

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_KIND = attrgetter("dtype", "device")


class Surroundings:
    """Takes note of what is attached to modules, to notice that it is something else.

    Looked at in every forward pass, so it compares what it remembers in a few calls.

    Args:
        modules: The modules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._hooks = [vars(module)[kind] for module in modules for kind in _HOOKS]
        self._own = [vars(module) for module in modules]
        self._places = [(module._parameters, name) for module in modules for name in module._parameters]
        self._before = self._now()

    def _now(self) -> tuple[list[int], list[Any], list[Any]]:
        parameters = [owner.get(name) for owner, name in self._places]
        forwards = [own.get("forward") for own in self._own]
        return [*map(len, self._hooks)], forwards, parameters + [_KIND(each) for each in parameters if each is not None]

    def hold(self) -> bool:
        """Tell whether they are what they were."""
        (hooks, forwards, parameters), (old_hooks, old_forwards, old_parameters) = self._now(), self._before
        if hooks != old_hooks or len(parameters) != len(old_parameters):
            return False
        count = len(self._places)
        same = all(map(is_, forwards, old_forwards)) and all(map(is_, parameters[:count], old_parameters[:count]))
        return same and parameters[count:] == old_parameters[count:]


class Settings:
    """Takes note of the modes and options of modules, to notice that they are others.

    Args:
        modules: The modules.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        options = [
            (vars(module), name) for module in modules for name, value in vars(module).items() if _is_plain(value)
        ]
        self._options = options
        self._before = self._now()

    def _now(self) -> list[Any]:
        return [own.get(name) for own, name in self._options]

    def hold(self) -> bool:
        """Tell whether they are what they were."""
        return self._now() == self._before


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str, type(None)))


def has_hooks(module: nn.Module) -> bool:
    """Tell whether something looks at the calls of a module; what replaced its forward does not."""
    pre = [hook for hook in module._forward_pre_hooks.values() if not _is_mark(hook)]
    others = (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks)
    return bool(pre) or any(others)


def _is_mark(hook: object) -> bool:
    return isinstance(getattr(hook, "__self__", None), ReplacedForward)


def runs_its_class(module: nn.Module) -> bool:
    """Tell whether a module's forward pass is that of its class, or replaced by something that computes the same.

    What computes the same says so by an attribute `computes_the_same`.
    """
    own = vars(module).get("forward")
    if own is None or is_of_class(module, own):
        return True
    handle = own.__self__ if isinstance(own, MethodType) else None
    if not isinstance(handle, ReplacedForward) or not getattr(handle.run, "computes_the_same", False):
        return False
    return handle.keeps_class
