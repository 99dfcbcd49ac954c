"""Copies of a module in the middle of a run, whose training steps don't change the run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import prune
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset

from lightning_sparse._compat import DummyLogger, LightningModule, Trainer, is_a
from lightning_sparse.validation.errors import InvalidTypeError


# Not torch.func.functional_call: it replaces parameters and buffers only. Attributes that a training step changes,
# metrics, logging, functions bound to the module and compiled code would still be those of the run.
def detached_copy(trainer: Trainer, module: LightningModule) -> LightningModule:
    """Return a copy with weights of its own, in the same training modes, not compiled, without gradients.

    It sees the Trainer (`self.trainer`, `self.global_step`) but logs nothing. It shares data sets and loaders with the
    run, and nothing else: buffers, metrics, and the objects that methods and hooks of single instances refer to are
    copies. Weights that PyTorch prunes are replaced by the effective weights, under their name.

    Args:
        trainer: Trainer of the run.
        module: Module of the run.

    Raises:
        TypeError: If something in the module can't be copied.
    """
    silent_trainer = _SilentTrainer(trainer)
    memo = _replacements(trainer, silent_trainer, module)
    try:
        with _Detaching():
            model_copy = copy.deepcopy(module, memo)
    except Exception as error:
        raise InvalidTypeError(
            expected="a module that can be copied, for fixed batches",
            got=f"{type(module).__name__}: {error}",
            cure="keep objects that can't be copied out of the module, or measure on training batches (batches=None)",
        ) from error
    vars(silent_trainer)["lightning_module"] = model_copy
    for layer in module.modules():
        if id(layer) in memo:
            _rebind_layer(layer, memo[id(layer)], memo)
    for layer in model_copy.modules():
        _silence(layer, silent_trainer)
        _apply_pruning(layer)
    model_copy.zero_grad(set_to_none=True)
    return model_copy


class _SilentTrainer:
    """Trainer as a copy of its module sees it: logging and assignments of the copy don't reach the run."""

    def __init__(self, trainer: Trainer) -> None:
        loggers = [DummyLogger() for _ in trainer.loggers]
        vars(self).update(_trainer=trainer, loggers=loggers, logger=loggers[0] if loggers else None)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_trainer"], name)


class _Detaching(TorchFunctionMode):
    """Copies tensors that were computed from others as detached tensors, which `copy.deepcopy` refuses to do."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def _replacements(trainer: Trainer, silent_trainer: _SilentTrainer, module: nn.Module) -> dict[int, Any]:
    """Return replacements for objects that must not be copied, by the objects' identity."""
    replacements: dict[int, Any] = {id(trainer): silent_trainer}
    replacements |= {id(logger): dummy for logger, dummy in zip(trainer.loggers, silent_trainer.loggers, strict=True)}
    for layer in module.modules():
        replacements |= {id(data): data for data in _data_in(vars(layer).values())}
        if context := getattr(layer, "_compiler_ctx", None):  # Lightning's record of a compiled module
            replacements[id(context)] = {}
    return replacements


def _data_in(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        contents = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        for candidate in (value, *contents):
            if isinstance(candidate, (Dataset, DataLoader)) or is_a(candidate, "LightningDataModule"):
                yield candidate


def _rebind_layer(layer: nn.Module, layer_copy: nn.Module, memo: dict[int, Any]) -> None:
    """Rebind functions that a layer has as attributes or hooks, compiled ones too, to the copy.

    Methods are bound to it already; functions are not copied by `copy.deepcopy`.
    """
    dictionaries = [value for value in vars(layer).values() if isinstance(value, dict) and id(value) in memo]
    for own, copied in [(vars(layer), vars(layer_copy)), *((hooks, memo[id(hooks)]) for hooks in dictionaries)]:
        for name, value in own.items():
            if isinstance(value, FunctionType):
                copied[name] = _rebind(value, memo)


def _rebind(value: Any, memo: dict[int, Any]) -> Any:
    value = getattr(value, "_torchdynamo_orig_callable", value) if isinstance(value, FunctionType) else value
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _rebind(value.__self__, memo))
    return _rebind_function(value, memo) if isinstance(value, FunctionType) else value


def _rebind_function(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    cells = tuple(CellType() for _ in function.__closure__ or ())
    copied = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    memo[id(function)] = copied  # before its cells, one of which may hold the function itself
    vars(copied).update(vars(function))
    copied.__defaults__ = function.__defaults__ and tuple(_rebind(value, memo) for value in function.__defaults__)
    copied.__kwdefaults__ = {name: _rebind(value, memo) for name, value in (function.__kwdefaults__ or {}).items()}
    for cell, original in zip(cells, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents = _rebind(original.cell_contents, memo)
        except ValueError:  # it is empty
            continue
    return copied


def _silence(layer: nn.Module, silent_trainer: _SilentTrainer) -> None:
    vars(layer).pop("_compiled_call_impl", None)
    if is_a(layer, "LightningModule"):
        vars(layer).update(_trainer=silent_trainer, _compiler_ctx=None)
        vars(layer).update(dict.fromkeys(("log", "log_dict", "print"), _log_nothing))


def _log_nothing(*_: Any, **__: Any) -> None:
    """Replace the methods that log."""


def _apply_pruning(layer: nn.Module) -> None:
    for hook in list(layer._forward_pre_hooks.values()):
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(layer, hook._tensor_name)  # type: ignore[no-untyped-call]  # PyTorch's
