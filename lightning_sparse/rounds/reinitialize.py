"""Freshly drawn initial weights, for the control experiment of the lottery ticket hypothesis."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lightning_sparse.rounds.module_values import ModuleValues
from lightning_sparse.rounds.random_states import seeded
from lightning_sparse.selection.patterns import name_list
from lightning_sparse.validation.errors import InvalidValueError

# Draws initial weights of a module in place.
Reinitialize = Callable[[nn.Module], object]


def check_resettable(module: nn.Module) -> None:
    """Raise unless every module with trained parameters can draw them again.

    Raises:
        ValueError: With the names of modules that have no `reset_parameters`.
    """
    lacking = [
        f"{name or 'the module itself'} ({type(part).__name__})"
        for name, part in module.named_modules()
        if _trains(part) and not callable(getattr(part, "reset_parameters", None))
    ]
    if lacking:
        raise InvalidValueError(
            expected="a method reset_parameters of every module that has trained parameters, to draw them again",
            got=f"none of {name_list(lacking)}",
            cure="pass reinitialize=, a function of the module that draws all of its initial weights",
        )


def redraw(module: nn.Module, start: ModuleValues, seed: int, reinitialize: Reinitialize | None) -> None:
    """Draw initial weights of a module in place; the global random state is left as it was.

    Args:
        module: Module of several rounds.
        start: Values that the module had before the first round.
        seed: Seed for the draws.
        reinitialize: Function of the module that draws all of its weights; None calls `reset_parameters` of every
            module in it, of a module after those inside of it, and leaves frozen parameters and all buffers at their
            values before the first round.
    """
    start.restore(module)
    with seeded(seed):
        if reinitialize is not None:
            reinitialize(module)
            return
        for part in reversed([*module.modules()]):
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
    start.restore_fixed(module)


def _trains(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters(recurse=False))
