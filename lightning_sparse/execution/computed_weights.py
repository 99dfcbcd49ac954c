"""Forward passes with tensors that are computed from parameters, in their place: gates, masks of the moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_sparse.selection.patterns import name_list
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.representation import ShowsOptions, short_text

Compute = Callable[[Tensor], Tensor]


def with_weight(compute: Compute, name: str = "weight") -> ComputedWeights:
    """Return a `run` for `replace_forward`: the original forward, with another tensor in the place of a parameter.

    Args:
        compute: Function of the parameter that returns a tensor of its shape, `weight * gate` for instance. Gradients
            reach the parameter and whatever else it used, which must be registered somewhere to be trained and saved.
            It is copied and pickled with the module, see `replace_forward`.
        name: Name of the parameter in the module; `"out_proj.weight"` is one of a module inside.

    Raises:
        TypeError: If there is nothing to call.

    >>> import torch
    >>> from lightning_sparse.execution import replace_forward
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> with replace_forward(layer, with_weight(torch.zeros_like)):
    ...     layer(torch.ones(2)).item()
    0.0
    """
    return ComputedWeights({name: compute})


class ComputedWeights(ShowsOptions):
    """The same for several parameters of one module: those of recurrent layers, or of attention.

    Each call runs the original forward on a shallow copy of the module that has the tensors among its parameters. The
    module itself isn't touched: calls may be nested, made by several threads, recomputed (activation checkpointing) or
    end in an exception, and whoever lists or saves its parameters meanwhile finds them. Attributes that the forward
    sets are set in the module as well; those that it deletes stay there.

    A forward that doesn't read the parameter by this name computes without the tensor: `torch.nn.utils.prune`, for
    instance, makes `weight` of `weight_orig` before each forward. `"parametrizations.weight.original"` is read.

    Args:
        computes: Functions by name of the parameter, see `with_weight`.

    Raises:
        TypeError: If one can't be called.
    """

    def __init__(self, computes: Mapping[str, Compute]) -> None:
        for name, compute in computes.items():
            if not callable(compute):
                raise InvalidTypeError(
                    expected=f"a function of the parameter {name!r}",
                    got=short_text(compute),
                    cure="pass one that returns a tensor of the parameter's shape",
                )
        self.computes = dict(computes)

    def __call__(self, module: nn.Module, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return the result of the original forward with the computed tensors.

        Args:
            module: Module whose forward is replaced.
            original: Its own forward, a function of the module and the arguments.
            *args: Arguments of the call.
            **kwargs: Arguments of the call.

        Raises:
            ValueError: If the module has no parameter of a name, or the shape of a computed tensor is another.
        """
        tensors = {name: _computed(module, name, compute) for name, compute in self.computes.items()}
        copies: list[_Copied] = []
        # Neither torch.func.functional_call, which would call this again and run hooks twice, nor tensors that are put
        # into the module for a while: code that torch.compile makes in PyTorch 2.4 takes no notice of them, as in later
        # versions after a graph break, and activation checkpointing recomputes after they have gone.
        copy = _shallow_copy(module, tensors, copies)
        try:
            return original(copy, *args, **kwargs)
        finally:
            for owner, before, after in copies:
                for name, value in after.items():
                    if before.get(name) is not value:
                        vars(owner)[name] = value


# A module, the attributes that its shallow copy had at first, and those that it has.
_Copied = tuple[nn.Module, dict[str, Any], dict[str, Any]]


def _shallow_copy(module: nn.Module, tensors: Mapping[str, Tensor], copies: list[_Copied]) -> nn.Module:
    """Return a copy with tensors in the place of parameters, by name; note it, and those of modules inside."""
    # No dictionary is changed once it is made: code that torch.compile makes in PyTorch 2.4 and 2.5 misses changes.
    here = {name: tensor for name, tensor in tensors.items() if "." not in name}
    parts = {name.partition(".")[0]: None for name in tensors if "." in name}
    inside = {part: _shallow_copy(module.get_submodule(part), _below(tensors, part), copies) for part in parts}
    modules = {**module._modules, **inside} if inside else module._modules
    own = {**vars(module), "_parameters": {**module._parameters, **here}, "_modules": modules}
    copy: nn.Module = object.__new__(type(module))
    copy.__dict__.update(own)
    copies.append((module, own, copy.__dict__))
    return copy


def _below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of a module inside, by their names in it."""
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def _computed(module: nn.Module, name: str, compute: Compute) -> Tensor:
    """Return the tensor that is computed from a parameter."""
    *path, local = name.split(".")
    owner: nn.Module | None = module
    for part in path:
        owner = None if owner is None else owner._modules.get(part)
    parameter = None if owner is None else owner._parameters.get(local)
    if parameter is None:
        raise InvalidValueError(
            expected=f"a parameter {name!r} of {type(module).__name__}",
            got=f"one with {name_list([each for each, _ in module.named_parameters()]) or 'none'}",
            cure="name one that it has, as its forward reads it",
        )
    tensor = compute(parameter)
    if not isinstance(tensor, Tensor) or tensor.shape != parameter.shape:
        shape = f"one of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else short_text(tensor)
        raise InvalidValueError(
            expected=f"a tensor of shape {tuple(parameter.shape)} for {name!r} of {type(module).__name__}",
            got=f"{shape} from {short_text(compute)}",
            cure="compute one of the parameter's shape",
        )
    return tensor
