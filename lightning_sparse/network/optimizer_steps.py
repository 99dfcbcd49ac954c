"""Observes every optimizer step on a set of parameters through PyTorch's global step hooks."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError


@dataclass
class _ObservedOptimizer:
    """An optimizer that has stepped some of the parameters, or was attached to do so."""

    # Weak, since a user may replace it during training, and its state is not to live on here for long.
    optimizer: weakref.ref[Optimizer]
    steps: int
    attached: bool = False
    # When it stepped last, in steps of all optimizers.
    last: int = 0
    # A step has begun and was not yet counted.
    stepping: bool = False
    # Names that other optimizers stepped meanwhile, as a wrapped optimizer does.
    nested: set[str] = field(default_factory=set)


class OptimizerStepObserver(ABC):
    """Follows the steps of some parameters, from the first `attach` to `detach`.

    Not only the attached optimizers count but every one that steps such a parameter: one that replaces them, one that
    they wrap, one that is given the parameters later.

    Args:
        parameters: By name.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = dict(parameters)
        self._followed: list[_ObservedOptimizer] = []
        # The optimizer that stepped each parameter last: its momentum is needed even if the user drops it then.
        self._last: dict[str, Optimizer] = {}
        self._steps_before = 0
        self._clock = 0

    @abstractmethod
    def _after_step(self, optimizer: Optimizer, names: Sequence[str], trained: Sequence[str] | None) -> None:
        """Update what depends on the weights; called after every step.

        Args:
            optimizer: Optimizer that took the step.
            names: Names of the observed parameters that it has.
            trained: Names of those that had a gradient and were not stepped by a wrapped optimizer. None if
                this step was skipped, or is one that counted already.
        """

    @property
    def steps(self) -> int:
        """Steps taken with a gradient; with several optimizers, those of the busiest one."""
        return max((followed.steps for followed in self._followed), default=self._steps_before)

    @steps.setter
    def steps(self, steps: int) -> None:
        self._steps_before = steps
        for followed in self._followed:
            followed.steps = steps

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers that are followed and still alive, those first that stepped last."""
        ordered = sorted(self._followed, key=lambda followed: -followed.last)
        return [optimizer for followed in ordered if (optimizer := followed.optimizer()) is not None]

    def names_stepped_by(self, optimizer: Optimizer) -> list[str]:
        """Return the names of the parameters that an optimizer has now."""
        if not hasattr(optimizer, "param_groups"):
            raise InvalidTypeError(
                expected="an optimizer",
                got=repr(optimizer),
                cure="ask for the optimizer itself",
            )
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [name for name, parameter in self._parameters.items() if id(parameter) in stepped]

    def optimizers_of(self, name: str) -> list[Optimizer]:
        """Return the followed optimizers of a parameter, the one first that stepped last."""
        parameter = self._parameters[name]
        return [
            optimizer
            for optimizer in self.optimizers
            if any(own is parameter for group in optimizer.param_groups for own in group["params"])
        ]

    def attach(self, optimizer: Optimizer) -> None:
        """Follow an optimizer, and from now on every other one that steps the same parameters.

        Raises:
            ValueError: If it has none of the parameters, or is attached already.
            TypeError: If it is no optimizer.
        """
        if not isinstance(optimizer, Optimizer):
            raise InvalidTypeError(
                expected="a torch.optim.Optimizer",
                got=repr(optimizer),
                cure="attach the optimizer itself",
            )
        if callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None)):
            raise InvalidValueError(
                expected="an optimizer that changes weights in its steps",
                got=f"a {type(optimizer).__name__}, whose train()/eval() swap in unmasked weights",
                cure="an optimizer that is not schedule-free",
            )
        if not self.names_stepped_by(optimizer):
            raise InvalidValueError(
                expected="an optimizer of the masked weights",
                got=f"a {type(optimizer).__name__} that steps none of them",
                cure="build it from the parameters of the same model",
            )
        followed = self._follow(optimizer)
        if followed.attached:
            raise InvalidValueError(
                expected="each optimizer once",
                got="one that is attached already",
                cure="detach first",
            )
        followed.attached = True
        self._last |= dict.fromkeys(self.names_stepped_by(optimizer), optimizer)
        _WATCHING.add(self)
        if not _HANDLES:
            _HANDLES.append(register_optimizer_step_pre_hook(_before_every_step))
            _HANDLES.append(register_optimizer_step_post_hook(_after_every_step))

    def detach(self) -> None:
        """Stop following; the number of steps stays."""
        self._steps_before = self.steps
        self._followed.clear()
        self._last.clear()
        _WATCHING.discard(self)
        while _HANDLES and not _WATCHING:
            _HANDLES.pop().remove()

    def _follow(self, optimizer: Optimizer) -> _ObservedOptimizer:
        for followed in self._followed:
            if followed.optimizer() is optimizer:
                return followed
        self._steps_before = self.steps
        self._followed = [followed for followed in self._followed if followed.optimizer() is not None]
        self._followed.append(_ObservedOptimizer(weakref.ref(optimizer), self._steps_before))
        return self._followed[-1]

    def before_step(self, optimizer: Optimizer) -> None:
        """Note that an optimizer begins a step."""
        if self.names_stepped_by(optimizer):
            followed = self._follow(optimizer)
            if not followed.stepping:
                followed.nested.clear()
            followed.stepping = True

    def after_step(self, optimizer: Optimizer) -> None:
        """Count a step of an optimizer that has ended, and report it."""
        names = self.names_stepped_by(optimizer)
        if not names:
            return
        followed = self._follow(optimizer)
        # A step that calls the step of its base class ends twice.
        counts = followed.stepping and not _has_skipped(optimizer)
        followed.stepping = False
        trained = [name for name in names if self._parameters[name].grad is not None] if counts else None
        if trained:
            followed.steps += 1
            self._clock += 1
            followed.last = self._clock
            self._last |= dict.fromkeys(trained, optimizer)
        for other in self._followed:
            if other.stepping:
                other.nested.update(names)
        not_nested = None if trained is None else [name for name in trained if name not in followed.nested]
        self._after_step(optimizer, names, not_nested)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it follows no optimizer."""
        return {**self.__dict__, "_followed": [], "_last": {}, "_steps_before": self.steps}


def _has_skipped(optimizer: Optimizer) -> bool:
    """Tell whether a fused optimizer left the weights alone in this step, as a gradient scaler told it to."""
    # Only while such an optimizer steps, and for what else the scaler would have asked the device before the step.
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


# All that watch, which one pair of hooks of PyTorch tells of every step of every optimizer. Not a pair for each: to
# remove it when its owner is collected would change PyTorch's dictionary while a step goes through it.
_WATCHING: weakref.WeakSet[OptimizerStepObserver] = weakref.WeakSet()
_HANDLES: list[RemovableHandle] = []


def observers_of(optimizers: Sequence[Optimizer]) -> list[OptimizerStepObserver]:
    """Return what watches the steps of some of the optimizers."""
    return [watch for watch in list(_WATCHING) if any(each in optimizers for each in watch.optimizers)]


def _before_every_step(optimizer: Optimizer, *_: Any) -> None:
    for watch in list(_WATCHING):
        watch.before_step(optimizer)


def _after_every_step(optimizer: Optimizer, *_: Any) -> None:
    for watch in list(_WATCHING):
        watch.after_step(optimizer)
