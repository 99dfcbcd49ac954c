"""Names of modules and parameters as the user wrote them, whatever wraps the model or its parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch import nn

# What wraps a module, and under which names it holds it. A name says nothing by itself: users call their own modules
# "module", too.
_WRAPPERS = {
    "OptimizedModule": ("_orig_mod",),  # torch.compile
    "DataParallel": ("module",),
    "DistributedDataParallel": ("module",),
    "AveragedModel": ("module",),
    "FullyShardedDataParallel": ("_fsdp_wrapped_module",),
    "ActivationWrapper": ("_checkpoint_wrapped_module",),  # activation checkpointing and offloading
    "_FabricModule": ("_forward_module", "_original_module"),
}
_LIBRARIES = ("torch", "lightning", "lightning_fabric")
_ADDED = frozenset(name for names in _WRAPPERS.values() for name in names)


def named_modules(model: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules inside a model, itself too, with the names that they have where nothing is wrapped.

    A wrapper has the name of what it wraps and comes before it.

    Args:
        model: Any module.
        remove_duplicate: Whether a module that is in several places comes once.

    >>> [name for name, _ in named_modules(nn.DataParallel(nn.Sequential(nn.ReLU())))]
    ['', '', '0']
    """
    yield from _walk(model, "", set() if remove_duplicate else None)


def _walk(module: nn.Module, name: str, seen: set[int] | None) -> Iterator[tuple[str, nn.Module]]:
    if seen is not None:
        if id(module) in seen:
            return
        seen.add(id(module))
    yield name, module
    added = _added_by(type(module))
    for local, child in module._modules.items():
        if child is not None:
            yield from _walk(child, name if local in added else _join(name, local), seen)


def _added_by(kind: type) -> Sequence[str]:
    """Return the names under which a class of modules holds what it wraps; none if it is no wrapper."""
    classes = (cls for cls in kind.__mro__ if cls.__module__.partition(".")[0] in _LIBRARIES)
    return next((_WRAPPERS[cls.__name__] for cls in classes if cls.__name__ in _WRAPPERS), ())


def _join(path: str, local: str) -> str:
    return f"{path}.{local}" if path else local


def named_parameters(model: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of a model with the names that they have where nothing is wrapped, in order.

    Args:
        model: Any module.
        remove_duplicate: Whether a tied parameter comes once, under its first name.
    """
    seen: set[int] = set()
    for name, parameter in _every_parameter(model, remove_duplicate):
        if not remove_duplicate or id(parameter) not in seen:
            seen.add(id(parameter))
            yield name, parameter


def _every_parameter(model: nn.Module, remove_duplicate: bool) -> Iterator[tuple[str, nn.Parameter]]:
    for path, module in named_modules(model, remove_duplicate=remove_duplicate):
        for local, parameter in module._parameters.items():
            if parameter is not None:
                yield _join(path, local), parameter


def written_names(given: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Return the names that the user wrote for names that wrappers may have added to, as PyTorch has them.

    Args:
        given: Names of parameters of a model that was wrapped, or of one that was not.
        known: Names of all parameters as `named_parameters` has them.

    Returns:
        A known name for each given name, or the given one where none can be meant, or several.

    >>> written_names(["module.0.weight", "1.weight"], ["0.weight", "1.weight"])
    {'module.0.weight': '0.weight', '1.weight': '1.weight'}
    """
    if set(given) <= set(known):
        return {name: name for name in given}
    candidates = defaultdict(list)
    for name in known:
        candidates[_without_added(name)].append(name)
    found = {name: candidates.get(_without_added(name), []) for name in given}
    written = {name: names[0] if len(names) == 1 else name for name, names in found.items()}
    return written if len(set(written.values())) == len(written) else {name: name for name in given}


def _without_added(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _ADDED)
