"""Layers that compute with another kernel than their weight, in which zeros of the weight are not zero.

A convolution that standardizes its weight in the forward pass has a mask in storage only. Whether a layer does so is
found out with a copy of it, before any weight is masked.
"""

from __future__ import annotations

import copy
import random
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_sparse.selection.kernel_trace import KernelTrace, density, fills_zeros
from lightning_sparse.selection.weight import Weight

COMPUTED = (
    "its layer computes with another kernel, in which zeros of this weight are filled: masked only if included by its "
    "own name or type"
)
# What a subclass overrides to compute with something else.
_OVERRIDDEN = ("forward", "_conv_forward", "__call__", "__getattr__", "__getattribute__")
# Verdicts by module and parameter: a forward pass with a large weight takes a while.
_known: WeakKeyDictionary[nn.Module, dict[str, bool | None]] = WeakKeyDictionary()


def has_computed_kernel(module: nn.Module, local: str) -> bool | None:
    """Tell whether a layer computes with a kernel in which zeros of its weight are filled; None if only use can tell.

    PyTorch's own layers do not. Of others a copy is called, in training and in evaluation mode, with random inputs and
    weights: nothing of the module, and no random state, changes.

    Args:
        module: Layer that owns the weight.
        local: Name of the weight in it.
    """
    if not _is_suspicious(module):
        return False
    try:
        verdicts = _known.setdefault(module, {})
    except TypeError:  # a module that can't be hashed
        verdicts = {}
    if local not in verdicts:
        verdicts[local] = _verdict(module, local)
    return verdicts[local]


def is_computed(weight: Weight) -> bool | None:
    """Tell the same of a weight, which may be tied: not if any of its layers computes with it as it is."""
    found = {has_computed_kernel(place.module, place.local) for place in weight.places}
    return False if False in found else None if None in found else True


def _is_suspicious(module: nn.Module) -> bool:
    own = [cls for cls in type(module).__mro__ if cls.__module__.partition(".")[0] not in ("torch", "builtins")]
    names = {name for cls in own for name in vars(cls)} | set(vars(module))
    return not names.isdisjoint(_OVERRIDDEN)


def _verdict(module: nn.Module, local: str) -> bool | None:
    shapes = _input_shapes(module)
    parameter = module._parameters[local]
    if not shapes or parameter is None or parameter.is_meta:
        return None
    found = [filled for training in (True, False) if (filled := _trial(module, local, shapes, training)) is not None]
    # A layer that adds noise in training, or merges weights for evaluation, uses its zeros in the other mode.
    return all(found) if found else None


def _input_shapes(module: nn.Module) -> list[tuple[int, ...]]:
    """Return shapes of inputs that a linear or convolutional layer may take, the likeliest first."""
    features, channels = getattr(module, "in_features", None), getattr(module, "in_channels", None)
    kernel = getattr(module, "kernel_size", None)
    if isinstance(features, int):
        return [(2, *extra, features) for extra in ((), (3,), (3, 3))]
    if not isinstance(channels, int) or not isinstance(kernel, tuple):
        return []
    dilation, padding = getattr(module, "dilation", 1), getattr(module, "padding", 0)
    sizes = []
    for axis, width in enumerate(kernel):
        steps = dilation[axis] if isinstance(dilation, tuple) else 1
        border = padding[axis] if isinstance(padding, tuple) else 0
        sizes.append(steps * (width - 1) + border + 2)
    return [(2, channels, *sizes)]


def _trial(module: nn.Module, local: str, shapes: list[tuple[int, ...]], training: bool) -> bool | None:
    """Tell whether a copy fills zeros in one mode; None if it can't be called, or no kernel is seen."""
    with _isolated(module._parameters[local]):
        try:
            copied = _copy(module, local).train(training)
            weight = copied.get_parameter(local)
            stored, forward = density(weight), _eager(copied.forward)
        except Exception:  # whatever a module of others holds that can't be copied: its use will tell
            return None
        for shape in shapes:
            inputs = _random(weight.new_empty(shape), 0.5, 1.5).requires_grad_()
            trace = KernelTrace(weight, copied.parameters(), has_gradient=True)
            try:
                with trace:
                    forward(inputs * 1)  # no leaf, which could not be changed in place
            except Exception:  # an input of another shape, or others beside it, are needed
                pass
            if trace.densities:
                return fills_zeros(trace.densities, stored)
    return None


def _copy(module: nn.Module, local: str) -> nn.Module:
    """Return a copy without hooks, with random parameters: half of the weight is zero, nothing else is."""
    memo: dict[int, Any] = {}
    for inner in module.modules():
        hooks = (value for name, value in vars(inner).items() if name.endswith("_hooks") and isinstance(value, dict))
        memo |= {id(each): OrderedDict() for each in hooks}
        for name, parameter in inner._parameters.items():
            if parameter is not None:
                is_weight = inner is module and name == local
                memo[id(parameter)] = nn.Parameter(_random_like(parameter, is_weight), requires_grad=is_weight)
    return copy.deepcopy(module, memo)


def _random_like(parameter: Tensor, is_weight: bool) -> Tensor:
    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    if not is_weight:
        return _random(values, 0.5, 1.5) if values.is_floating_point() else parameter.detach().clone()
    return _random(values, -1.0, 1.0).masked_fill_(values.abs() < 0.5, 0.0)


def _random(values: Tensor, low: float, high: float) -> Tensor:
    return values.uniform_(low, high, generator=torch.Generator(values.device).manual_seed(0))


def _eager(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method that a class or an instance has compiled, else the one given."""
    original = getattr(forward, "_torchdynamo_orig_callable", None)
    if original is None:
        return forward
    return MethodType(original, forward.__self__) if isinstance(forward, MethodType) else original


@contextmanager
def _isolated(parameter: Tensor | None) -> Iterator[None]:
    """Restore the random states, and see gradients, whatever surrounds this; warnings of the layer are its user's."""
    before = random.getstate()
    devices = [parameter.device] if parameter is not None and parameter.is_cuda else []
    with warnings.catch_warnings(), torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            with _not_compiled():
                yield
        finally:
            random.setstate(before)


def _not_compiled() -> AbstractContextManager[object]:
    """Run compiled functions as they were written, from PyTorch 2.6 on."""
    # Where nothing has been compiled yet, its import would take seconds.
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
