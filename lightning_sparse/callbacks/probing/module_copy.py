"""A copy of a module in the middle of a run, whose training steps leave no trace in the run."""

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


def detached_copy(trainer: Trainer, module: LightningModule) -> LightningModule:
    """Return a copy with weights of its own, in the same modes, not compiled, without gradients.

    It sees the Trainer (`self.trainer`, `self.global_step`) but logs nothing. Data sets and loaders are the run's, all
    else is its own: buffers, metrics, and what methods and hooks of single instances refer to. Weights that PyTorch
    prunes are replaced by the effective ones, under their name.

    Args:
        trainer: Of the run.
        module: The module of the run.

    Raises:
        TypeError: If something in the module can't be copied.
    """
    onlooker = _SilentTrainer(trainer)
    memo = _not_to_copy(trainer, onlooker, module)
    try:
        with _Detaching():
            shadow = copy.deepcopy(module, memo)
    except Exception as error:
        raise InvalidTypeError(
            expected="a module that can be copied, for fixed batches",
            got=f"{type(module).__name__}: {error}",
            cure="keep what can't be copied out of the module, or measure on training batches (batches=None)",
        ) from error
    vars(onlooker)["lightning_module"] = shadow
    for layer in module.modules():
        if id(layer) in memo:
            _rebind_layer(layer, memo[id(layer)], memo)
    for layer in shadow.modules():
        _attach(layer, onlooker)
        _apply_pruning(layer)
    shadow.zero_grad(set_to_none=True)
    return shadow


class _SilentTrainer:
    """A Trainer that a copy of its module sees: what the copy logs or sets is not for the run."""

    def __init__(self, trainer: Trainer) -> None:
        loggers = [DummyLogger() for _ in trainer.loggers]
        vars(self).update(_trainer=trainer, loggers=loggers, logger=loggers[0] if loggers else None)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_trainer"], name)


class _Detaching(TorchFunctionMode):
    """Lets tensors be copied that were computed from others, without what they were computed from."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def _not_to_copy(trainer: Trainer, onlooker: _SilentTrainer, module: nn.Module) -> dict[int, Any]:
    """Return what stands in the copy for objects that are not to be copied, by their identity."""
    stands_for: dict[int, Any] = {id(trainer): onlooker}
    stands_for |= {id(logger): dummy for logger, dummy in zip(trainer.loggers, onlooker.loggers, strict=True)}
    for layer in module.modules():
        stands_for |= {id(data): data for data in _data_in(vars(layer).values())}
        if context := getattr(layer, "_compiler_ctx", None):  # what Lightning knows of a compiled module
            stands_for[id(context)] = {}
    return stands_for


def _data_in(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        contents = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        for each in (value, *contents):
            if isinstance(each, (Dataset, DataLoader)) or is_a(each, "LightningDataModule"):
                yield each


def _rebind_layer(layer: nn.Module, twin: nn.Module, memo: dict[int, Any]) -> None:
    """Let functions that a layer has as attributes or hooks, compiled ones too, refer to the copy.

    Methods refer to it already. Functions are what `copy.deepcopy` leaves as they are.
    """
    dictionaries = [value for value in vars(layer).values() if isinstance(value, dict) and id(value) in memo]
    for own, copied in [(vars(layer), vars(twin)), *((each, memo[id(each)]) for each in dictionaries)]:
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
    for cell, given in zip(cells, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents = _rebind(given.cell_contents, memo)
        except ValueError:  # it is empty
            continue
    return copied


def _attach(layer: nn.Module, onlooker: _SilentTrainer) -> None:
    vars(layer).pop("_compiled_call_impl", None)
    if is_a(layer, "LightningModule"):
        vars(layer).update(_trainer=onlooker, _compiler_ctx=None)
        vars(layer).update(dict.fromkeys(("log", "log_dict", "print"), _nothing))


def _nothing(*_: Any, **__: Any) -> None:
    """Take the place of what logs."""


def _apply_pruning(layer: nn.Module) -> None:
    for hook in list(layer._forward_pre_hooks.values()):
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(layer, hook._tensor_name)  # type: ignore[no-untyped-call]  # PyTorch's
