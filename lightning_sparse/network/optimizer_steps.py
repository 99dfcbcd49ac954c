"""Observes every optimizer step on a set of parameters through PyTorch's global step hooks."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from operator import attrgetter, is_not
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_pre_hooks

from lightning_sparse.network.steps.evaluations import Evaluations
from lightning_sparse.network.steps.hooks import unwatch_steps, watch_steps
from lightning_sparse.network.steps.kinds import (
    check_optimizer,
    evaluates_once,
    has_skipped,
    searches_along_gradients,
    takes_two_calls,
    unmasked_pass,
)
from lightning_sparse.network.steps.observed import ObservedOptimizer
from lightning_sparse.network.steps.unseen import UnseenSteps
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

_GRADIENT = attrgetter("grad")


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
        self.unseen = UnseenSteps()
        # Whether an attached optimizer may change weights in a first of two calls; repairs of masks at the last step.
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
        self.unseen.expect(self._attached())
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
        self.unseen = UnseenSteps()
        unwatch_steps(self)

    def _see(self, optimizer: Optimizer) -> ObservedOptimizer:
        """Return the entry of an optimizer, with the names of the parameters that it has now."""
        seen = self._seen.get(id(optimizer))
        if seen is None or seen.optimizer() is not optimizer:  # or an earlier one had the same id
            self._seen = {key: each for key, each in self._seen.items() if each.optimizer() is not None}
            seen = self._seen[id(optimizer)] = ObservedOptimizer(weakref.ref(optimizer), self.steps)
            seen.masks_gradients = searches_along_gradients(optimizer)
            seen.evaluates_once = evaluates_once(optimizer)
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
        if seen is None or not seen.names or seen.optimizer() is not optimizer:  # else names can wait for its end
            seen = self._see(optimizer)
        if not seen.names:
            return None
        if seen.leaves_out:
            seen.drop_gradients()
        if not seen.stepping:
            seen.nested.clear()
            seen.evaluations = 0
        if self._two_calls:
            self._check_two_calls(seen)
        seen.stepping = True
        evaluations = self.evaluations
        masks = evaluations.masks
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        # Others may write to weights between here and the closure: later hooks, and an optimizer around this one.
        alone = len(self._seen) == 1 == len(_global_optimizer_pre_hooks) and not optimizer._optimizer_step_pre_hooks
        if masks is None or closure is None or not (alone and seen.evaluates_once) or evaluations.keeper.is_needed:
            return evaluations.watch(seen, args, kwargs)
        if masks.have_changed():  # the closure's forward pass is yet to come
            masks.apply()
        return None

    def _check_two_calls(self, seen: ObservedOptimizer) -> None:
        """Raise if an optimizer has changed the weights for a forward pass between the last step and this one."""
        masks = self.evaluations.masks
        if masks is None or not masks.have_changed() or masks.repairs != self._repairs:
            return
        for other in self._seen.values():
            if other.two_calls and not other.stepping and (optimizer := other.optimizer()) is not None:
                raise unmasked_pass(optimizer)

    def leave_out(self, optimizer: Optimizer, leave_out: bool) -> None:
        """Leave out the step that an optimizer is in, else its next one, or take that back."""
        self._see(optimizer).leave_out(leave_out)

    def after_step(self, optimizer: Optimizer) -> None:
        """Count a step of an optimizer that has ended, and report it."""
        seen = self._seen.get(id(optimizer))
        groups = optimizer.param_groups
        # Most optimizers have one group. If its parameters are those of the last step, `_see` would find nothing new.
        if (
            seen is None
            or len(groups) != 1
            or seen.optimizer() is not optimizer
            or [*map(id, groups[0]["params"])] != seen.held
        ):
            seen = self._see(optimizer)
        if not seen.names:
            return
        # A step that calls the step of its base class ends twice.
        counts = seen.stepping and (getattr(optimizer, "found_inf", None) is None or not has_skipped(optimizer))
        seen.stepping = False
        if len(self._seen) > 1:
            self._note_nested(seen.names)
        trained: Sequence[str] | None = None
        if counts:
            # The common case of `_count` without a call: nothing else steps, and all is as in the step before.
            has_all = all(map(is_not, map(_GRADIENT, seen.parameters), repeat(None)))
            as_before = seen.trained is seen.names and seen.last == self._clock and seen.steps == self.steps
            if has_all and as_before and self.unseen.are_none and not seen.nested:
                trained = seen.names
                seen.last = self._clock = self._clock + 1
                seen.steps = self.steps = self.steps + 1
            else:
                trained = self._count(seen, optimizer)
        self._after_step(optimizer, seen.names, trained)
        if seen.masks_gradients or self.evaluations.keeper.found:
            self.evaluations.end(seen)
        if self._two_calls and self.evaluations.masks is not None:
            self._repairs = self.evaluations.masks.repairs
        if seen.evaluations > 1 and not seen.masks_gradients:
            # Then it compares losses along gradients, too. One with momentum goes on to grow weights by it: it is one
            # that looks at the neighbourhood, and needs no more than masked weights there.
            seen.masks_gradients = not self._have_momentum(seen.names)

    def _note_nested(self, names: Sequence[str]) -> None:
        for other in self._seen.values():
            if other.stepping:
                other.nested.update(names)

    def _count(self, seen: ObservedOptimizer, optimizer: Optimizer) -> Sequence[str]:
        """Count a step, and return the names of the parameters that it trained itself."""
        trained: Sequence[str] = seen.names  # the same in every step, so that it is quickly compared
        if any(parameter.grad is None for parameter in seen.parameters):
            trained = [name for name in seen.names if self._parameters[name].grad is not None]
        if trained:
            if not self.unseen.are_none and (wrong := self.unseen.note_seen()):
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
        if self.unseen.are_none and not has_changed:
            return
        if self.unseen.look(has_changed, loop_steps):
            self.go_on_from(self.steps + 1)
            attached: list[Optimizer | None] = [*self._attached()]
            for optimizer in attached or [None]:
                names = [*self._parameters] if optimizer is None else self.names_stepped_by(optimizer)
                trained = [name for name in names if self._parameters[name].grad is not None]
                self.trained.update(trained)
                self._after_step(optimizer, names, trained)
        if has_changed or self.unseen.may_escape:
            masks.apply()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it follows no optimizer."""
        return {**self.__dict__, "_seen": {}, "_last": {}, "_two_calls": False, "unseen": UnseenSteps()}
