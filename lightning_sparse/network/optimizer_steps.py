"""Observes every optimizer step on a set of parameters through PyTorch's global step hooks."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_sparse.network.steps.evaluations import Evaluations
from lightning_sparse.network.steps.hooks import unwatch_steps, watch_steps, watchers
from lightning_sparse.network.steps.kinds import (
    check_optimizer,
    has_skipped,
    searches_along_gradients,
    takes_two_calls,
    unmasked_pass,
)
from lightning_sparse.network.steps.unseen import UnseenSteps
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError


@dataclass(eq=False)
class ObservedOptimizer:
    """An optimizer that has begun a step, or was attached.

    Attributes:
        optimizer: Weak, since a user may replace it during training, and its state is not to live on here for long.
        steps: Steps that it took with a gradient.
        names: Names of the observed parameters that it has, as of its last step.
        attached: Whether it was attached.
        two_calls: Whether it was, and may change weights in a first of two calls.
        last: When it stepped last, in steps of all optimizers; -1 if it never did.
        trained: Names of the parameters that had a gradient then.
        parameters: The observed parameters that it has, in the order of their names.
        stepping: Whether a step has begun and was not yet counted.
        nested: Names that other optimizers stepped meanwhile, as a wrapped optimizer does.
        held: All parameters that it has, by identity: only while they are the same are the names known.
        evaluations: Number of evaluations of a closure in its present step.
        masks_gradients: Whether it is to see zero as the gradients of inactive weights.
        overwrites: Whether it changes gradients in its steps; None before the first one.
    """

    optimizer: weakref.ref[Optimizer]
    steps: int
    names: tuple[str, ...] = ()
    attached: bool = False
    two_calls: bool = False
    last: int = -1
    trained: Sequence[str] = ()
    parameters: Sequence[Parameter] = ()
    stepping: bool = False
    nested: set[str] = field(default_factory=set)
    held: list[int] = field(default_factory=list)
    evaluations: int = 0
    masks_gradients: bool = False
    overwrites: bool | None = None


class OptimizerStepObserver(ABC):
    """Follows the steps of some parameters, from the first `attach` to `detach`.

    Not only the attached optimizers count but every one that steps such a parameter: one that replaces them, one that
    they wrap, one that is given the parameters later.

    Args:
        parameters: By name.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = dict(parameters)
        # All optimizers that were seen, by identity, those of other parameters too: to tell them costs a moment.
        self._seen: dict[int, ObservedOptimizer] = {}
        # The optimizer that stepped each parameter last: its momentum is needed even if the user drops it then.
        self._last: dict[str, Optimizer] = {}
        # Steps taken with a gradient; with several optimizers, those of the busiest one.
        self.steps = 0
        # The parameters that had a gradient in a step.
        self.trained: set[str] = set()
        self._clock = 0
        self.evaluations = Evaluations(self._parameters)
        self._unseen = UnseenSteps()
        # Whether an attached optimizer may change weights in a first of two calls; and how often weights were masked
        # in between, at the last step.
        self._two_calls = False
        self._repairs = 0

    @abstractmethod
    def _after_step(self, optimizer: Optimizer | None, names: Sequence[str], trained: Sequence[str] | None) -> None:
        """Update what depends on the weights; called after every step.

        Args:
            optimizer: Optimizer that took the step; None if it was none.
            names: Names of the observed parameters that it has.
            trained: Names of those that had a gradient and were not stepped by a wrapped optimizer. None if
                this step was skipped, or is one that counted already.
        """

    def _have_momentum(self, names: Sequence[str]) -> bool:
        """Tell whether an optimizer has momentum of some of these parameters."""
        return False

    def go_on_from(self, steps: int) -> None:
        """Replace the number of steps."""
        self.steps = steps
        for seen in self._seen.values():
            seen.steps = steps

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers that are followed and still alive, those first that stepped last."""
        followed = sorted((seen for seen in self._seen.values() if seen.names), key=lambda seen: -seen.last)
        return [optimizer for seen in followed if (optimizer := seen.optimizer()) is not None]

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
        check_optimizer(optimizer)
        if not self.names_stepped_by(optimizer):
            raise InvalidValueError(
                expected="an optimizer of the masked weights",
                got=f"a {type(optimizer).__name__} that steps none of them",
                cure="build it from the parameters of the same model",
            )
        seen = self._see(optimizer)
        if seen.attached:
            raise InvalidValueError(
                expected="each optimizer once",
                got="one that is attached already",
                cure="detach first",
            )
        seen.attached = True
        seen.two_calls = takes_two_calls(optimizer)
        self._two_calls |= seen.two_calls
        self._last |= dict.fromkeys(seen.names, optimizer)
        self._unseen.expect(self._attached())
        watch_steps(self)

    def watch(self) -> None:
        """Follow every optimizer that steps the parameters from now on, though none is attached."""
        watch_steps(self)

    def _attached(self) -> list[Optimizer]:
        return [each for seen in self._seen.values() if seen.attached and (each := seen.optimizer()) is not None]

    def detach(self) -> None:
        """Stop following; the number of steps stays."""
        self._seen.clear()
        self._last.clear()
        self._two_calls = False
        self._unseen = UnseenSteps()
        unwatch_steps(self)

    def _see(self, optimizer: Optimizer) -> ObservedOptimizer:
        """Return the entry of an optimizer, with the names of the parameters that it has now."""
        seen = self._seen.get(id(optimizer))
        if seen is None or seen.optimizer() is not optimizer:  # or an earlier one had the same id
            self._seen = {key: each for key, each in self._seen.items() if each.optimizer() is not None}
            seen = self._seen[id(optimizer)] = ObservedOptimizer(weakref.ref(optimizer), self.steps)
            seen.masks_gradients = searches_along_gradients(optimizer)
        # The observed parameters are alive as long as this is, so no other one gets the id of one of them.
        groups = optimizer.param_groups
        held = [*map(id, groups[0]["params"])] if groups else []
        for group in groups[1:]:
            held += map(id, group["params"])
        if held != seen.held:
            if not seen.names:
                seen.steps = self.steps
            seen.held, seen.names = held, tuple(self.names_stepped_by(optimizer))
            seen.parameters = [self._parameters[name] for name in seen.names]
        return seen

    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Note that an optimizer begins a step; may return other arguments for it."""
        seen = self._seen.get(id(optimizer))
        if (
            seen is None or not seen.names or seen.optimizer() is not optimizer
        ):  # else names can wait until it has stepped
            seen = self._see(optimizer)
        if not seen.names:
            return None
        if not seen.stepping:
            seen.nested.clear()
            seen.evaluations = 0
        if self._two_calls:
            self._check_two_calls(seen)
        seen.stepping = True
        return self.evaluations.watch(seen, args, kwargs)

    def _check_two_calls(self, seen: ObservedOptimizer) -> None:
        """Raise if an optimizer has changed the weights for a forward pass between the last step and this one."""
        masks = self.evaluations.masks
        if masks is None or not masks.have_changed() or masks.repairs != self._repairs:
            return
        for other in self._seen.values():
            if other.two_calls and not other.stepping and (optimizer := other.optimizer()) is not None:
                raise unmasked_pass(optimizer)

    def after_step(self, optimizer: Optimizer) -> None:
        """Count a step of an optimizer that has ended, and report it."""
        seen = self._see(optimizer)
        if not seen.names:
            return
        # A step that calls the step of its base class ends twice.
        counts = seen.stepping and not has_skipped(optimizer)
        seen.stepping = False
        if len(self._seen) > 1:
            for other in self._seen.values():
                if other.stepping:
                    other.nested.update(seen.names)
        self._after_step(optimizer, seen.names, self._count(seen, optimizer) if counts else None)
        if seen.masks_gradients or self.evaluations.keeper.found:
            self.evaluations.end(seen)
        if self._two_calls and self.evaluations.masks is not None:
            self._repairs = self.evaluations.masks.repairs
        if seen.evaluations > 1 and not seen.masks_gradients:
            # Then it compares losses along gradients, too. One with momentum goes on to grow weights by it: it is one
            # that looks at the neighbourhood, and needs no more than masked weights there.
            seen.masks_gradients = not self._have_momentum(seen.names)

    def _count(self, seen: ObservedOptimizer, optimizer: Optimizer) -> Sequence[str]:
        """Count a step, and return the names of the parameters that it trained itself."""
        trained: Sequence[str] = seen.names  # the same in every step, so that it is quickly compared
        for parameter in seen.parameters:
            if parameter.grad is None:
                trained = [name for name in seen.names if self._parameters[name].grad is not None]
                break
        if trained:
            if not self._unseen.are_none and (wrong := self._unseen.note_seen()):
                self.go_on_from(self.steps - wrong)
            seen.steps += 1
            self.steps = max(self.steps, seen.steps)
            if seen.last != self._clock or trained is not seen.trained:  # else it is known already
                self._last |= dict.fromkeys(trained, optimizer)
                seen.trained = trained
                self.trained.update(trained)
            self._clock += 1
            seen.last = self._clock
        return [name for name in trained if name not in seen.nested] if seen.nested else trained

    def look(self, loop_steps: Callable[[], int]) -> None:
        """Mask weights that changed where no hook saw it, and count a step that none saw; call it after each batch.

        Args:
            loop_steps: Returns the number of steps that the training loop has counted.
        """
        masks = self.evaluations.masks
        if masks is None:
            return
        has_changed = masks.have_changed()
        if self._unseen.are_none and not has_changed:
            return
        if self._unseen.look(has_changed, loop_steps):
            self.go_on_from(self.steps + 1)
            attached: list[Optimizer | None] = [*self._attached()]
            for optimizer in attached or [None]:
                names = [*self._parameters] if optimizer is None else self.names_stepped_by(optimizer)
                trained = [name for name in names if self._parameters[name].grad is not None]
                self.trained.update(trained)
                self._after_step(optimizer, names, trained)
        if has_changed or self._unseen.may_escape:
            masks.apply()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it follows no optimizer."""
        return {**self.__dict__, "_seen": {}, "_last": {}, "_two_calls": False, "_unseen": UnseenSteps()}


def observers_of(optimizers: Sequence[Optimizer]) -> list[OptimizerStepObserver]:
    """Return what watches the steps of some of the optimizers."""
    return [watch for watch in watchers() if any(each in optimizers for each in watch.optimizers)]
