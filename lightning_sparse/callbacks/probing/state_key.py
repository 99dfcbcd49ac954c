"""The state key of a callback, and what Lightning's check of its callbacks finds out with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, overload

from lightning_sparse._compat import Callback, ConfigurationError

# Lightning's function that asks every callback with a state for its key, before any hook is called.
_CHECK = "_validate_callbacks_list"
_calling_frame = sys._getframe


class StateKey:
    """Attribute `state_key`, computed when read, that explains mistakes in a Trainer's list of callbacks.

    Lightning compares the keys of the callbacks when a Trainer is made, and says of two equal ones only that they are
    not supported; a class in place of an instance it finds no fault with, and fails later. There is no hook at this
    moment, so the attribute looks at who asks for it.

    It is no property, as an instance may have a value of its own: Lightning reads the key in every hook of every step,
    and `hold_state_key` makes that cost nothing during a fit.

    Args:
        getter: Method that returns the key.
    """

    def __init__(self, getter: Callable[[Any], str]) -> None:
        self._getter = getter
        self.__doc__ = getter.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> StateKey: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> str: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Return the key of an instance; of the class, this."""
        caller = _calling_frame(1)
        if caller.f_code.co_name == _CHECK:
            self._check_listed(instance, owner, caller.f_locals.get("callbacks", ()))
        return self if instance is None else self._getter(instance)

    def _check_listed(self, instance: Any, owner: type | None, callbacks: Sequence[object]) -> None:
        if instance is None:
            name = getattr(owner, "__name__", "callback")
            raise ConfigurationError(
                expected=f"an instance of {name} in the Trainer's callbacks",
                got="the class",
                cure=f"callbacks=[{name}(...)]",
            )
        same_class = [other for other in callbacks if type(other) is type(instance)]
        key = self.__get__(instance, type(instance))
        equal = [other for other in same_class if self.__get__(other, type(other)) == key]
        if len(equal) > 1:
            named = hasattr(instance, "_name")
            raise ConfigurationError(
                expected=f"one {type(instance).__name__} among the Trainer's callbacks"
                + (", or several of different names or options" if named else ""),
                got="the same object twice" if equal[0] is equal[1] else f"{len(equal)}" + " that are alike" * named,
                cure="keep one, or give each a name of its own" if named else "keep one",
            )


def hold_state_key(callback: Callback) -> None:
    """Keep the key of a callback as an attribute of its own, until `release_state_key`."""
    release_state_key(callback)
    vars(callback)["state_key"] = callback.state_key


def release_state_key(callback: Callback) -> None:
    """Let the key be computed again when it is read."""
    vars(callback).pop("state_key", None)
