"""The forward pass of one module, run by something else until it is restored; nothing else of the module changes."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_sparse.validation.errors import InvalidStateError, InvalidTypeError, InvalidValueError
from lightning_sparse.validation.representation import short_text

# Called with the module, its original forward, and the arguments of the call.
Run = Callable[..., Any]


def replace_forward(module: nn.Module, run: Run) -> ReplacedForward:
    """Let `module(x)` call `run(module, original, x)` from now on, where `original(module, x)` is its own forward.

    Parameters, buffers, their names, checkpoints, modes and the class of the module stay as they are, and its hooks run
    once a call. A compiled model notices. Copies of the module, pickled ones too, are replaced as well and independent:
    `run` is copied with it, functions aside, so it should be an object of a class that refers to little.

    Only calls of the module are replaced. What reads its parameters without calling it computes with them as they are:
    another module that shares them, attention in torchvision's Swin transformers (`qkv`, `proj`), `torch.fx` if the
    module itself is traced. Replace the forward of the module that reads them, see `with_weight`. In evaluation with
    PyTorch 2.4, `nn.TransformerEncoderLayer` calls its layers after `torch.backends.mha.set_fastpath_enabled(False)`.

    Args:
        module: Any module but one of TorchScript.
        run: Function of the module, its original forward, and all arguments of a call; its result is the module's.
            Calls of a copy pass the copy. To be pickled with the module, it must be known by an import path.

    Returns:
        The handle: `remove()` restores the original forward, as the end of a `with` block does.

    Raises:
        TypeError: If there is no such module, or nothing to call.
        ValueError: If the forward is replaced already, or is never called.

    >>> layer = nn.Linear(2, 2)
    >>> with replace_forward(layer, lambda module, original, inputs: original(module, inputs) * 0 + 1):
    ...     layer(torch.ones(2)).tolist()
    [1.0, 1.0]
    """
    _check(module, run)
    return ReplacedForward(module, run)


def replaced_forward(module: nn.Module) -> ReplacedForward | None:
    """Return the handle of a module, or of a copy, whose forward is replaced; None if it is not.

    >>> layer = nn.Linear(2, 2)
    >>> handle = replace_forward(layer, lambda module, original, inputs: original(module, inputs))
    >>> replaced_forward(layer) is handle
    True
    >>> handle.remove()
    >>> replaced_forward(layer) is None
    True
    """
    owners = (getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, ReplacedForward)), None)


class ReplacedForward:
    """Handle of a module whose forward is replaced, made by `replace_forward`.

    Attributes:
        module: The module; of a copy, the copy.
        run: Function that runs it.
    """

    def __init__(self, module: nn.Module, run: Run) -> None:
        self.module, self.run = module, run
        # What a package has put in place of the class's forward; None if there is nothing.
        self._own_forward: Callable[..., Any] | None = vars(module).get("forward")
        self._is_removed = False
        self._mark = module.register_forward_pre_hook(self._forbid_shortcuts)
        # A method, as torch.export asks for its code. Not set by setattr, which some modules override.
        vars(module)["forward"] = self._forward

    def remove(self) -> None:
        """Restore the original forward; the second time, do nothing."""
        own = vars(self.module)
        # What another package has put there since stays, and calls the original through this object.
        if getattr(own.get("forward"), "__self__", None) is self:
            del own["forward"]
            if self._own_forward is not None:
                own["forward"] = self._own_forward
        self._mark.remove()
        self._is_removed = True

    @property
    def keeps_class(self) -> bool:
        """Whether the original forward is that of the module's class: no other package has put another one there."""
        return self._own_forward is None or is_of_class(self.module, self._own_forward)

    def _forward(self, /, *args: Any, **kwargs: Any) -> Any:
        if self._is_removed:
            return self._original(self.module, *args, **kwargs)
        return self.run(self.module, self._original, *args, **kwargs)

    def _original(self, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of the module's own forward, also if it is called on a shallow copy."""
        own = self._own_forward
        if own is None:
            # Looked up in each call: FSDP2 and lazy modules change the class of a module.
            return type(self.module).forward(module, *args, **kwargs)
        if module is self.module:
            return own(*args, **kwargs)
        if isinstance(own, MethodType) and own.__self__ is self.module:
            return own.__func__(module, *args, **kwargs)
        raise InvalidStateError(
            expected=f"a {type(module).__name__} with the forward of its class, to run it with other weights",
            got=f"one whose forward is {short_text(own)}",
            cure="replace the forward first, then let the other package wrap it",
        )

    def _forbid_shortcuts(self, module: nn.Module, inputs: Any) -> None:
        """Do nothing, as a hook.

        In evaluation `nn.TransformerEncoderLayer` computes with the weights of its layers without calling them, unless
        one of them has a hook. The handle is found by it, too, if another package has wrapped the forward.
        """

    def __enter__(self) -> ReplacedForward:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.module).__name__}, {short_text(self.run)})"


def is_of_class(module: nn.Module, forward: object) -> bool:
    """Tell whether a function is the forward of a module's class, as a method of the module.

    Lightning puts it there while a strategy runs another method in its place.
    """
    return isinstance(forward, MethodType) and forward.__self__ is module and forward.__func__ is type(module).forward


def _check(module: nn.Module, run: Run) -> None:
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise InvalidTypeError(
            expected="a torch.nn.Module that runs in Python",
            got=short_text(module),
            cure="pass the module itself, before TorchScript compiles it",
        )
    if not callable(run):
        raise InvalidTypeError(
            expected="a function run(module, original, *args, **kwargs)",
            got=short_text(run),
            cure="pass with_weight(compute), for instance",
        )
    if isinstance(module, NonDynamicallyQuantizableLinear):
        raise InvalidValueError(
            expected="a module that is called",
            got="the output projection of attention, whose weight nn.MultiheadAttention reads without calling it",
            cure="replace the forward of the attention, by with_weight(compute, 'out_proj.weight') for instance",
        )
    if (handle := replaced_forward(module)) is not None:
        raise InvalidValueError(
            expected="a module with its original forward",
            got=f"a {type(module).__name__} whose forward is replaced already, by {short_text(handle.run)}",
            cure="replaced_forward(module).remove() restores it",
        )
