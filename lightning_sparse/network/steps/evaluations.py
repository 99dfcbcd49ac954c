"""Closures that optimizers call: every evaluation sees masked weights, and a line search sees masked gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from torch import Tensor
from torch.nn import Parameter

from lightning_sparse.network.masks import Masks
from lightning_sparse.network.steps.gradients import GradientKeeper, OverwritingOptimizer

_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class SteppingOptimizer(OverwritingOptimizer, Protocol):
    """What is known of the optimizer of a step."""

    evaluations: int
    masks_gradients: bool


class Evaluations:
    """Evaluations of closures in the steps of optimizers.

    Optimizers may change weights before they evaluate a closure: to see how the loss changes in their neighbourhood
    (sharpness-aware ones), at another point than the one that is kept (schedule-free ones), or along a direction
    (L-BFGS). The forward pass is then made with masked weights, and a direction is made of masked gradients.

    Args:
        parameters: The observed parameters by name.

    Attributes:
        masks: Their masks; None while there is nothing to mask.
        keeper: Gradients of a step that the optimizer may overwrite.
        dense: Gradients of the present step before they were masked, by name; empty if none were.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = parameters
        self.masks: Masks | None = None
        self.keeper = GradientKeeper(parameters)
        self.dense: dict[str, Tensor] = {}
        self._are_running = False

    def watch(self, optimizer: SteppingOptimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments | None:
        """Return other arguments for a step (the first one is the optimizer), or None to leave them.

        Args:
            optimizer: The optimizer that steps.
            args: Positional arguments of its step.
            kwargs: Keyword arguments of its step.
        """
        if self.masks is not None:
            if len(args) > 1 and callable(args[1]):
                return (args[0], partial(self.evaluate, args[1], optimizer), *args[2:]), kwargs
            if callable(closure := kwargs.get("closure")):
                return args, {**kwargs, "closure": partial(self.evaluate, closure, optimizer)}
        if self.keeper.is_needed:
            self.keeper.note(optimizer)
        return None

    def evaluate(self, closure: Callable[..., Any], optimizer: SteppingOptimizer, *args: Any, **kwargs: Any) -> Any:
        """Call a closure, with masked weights; mask the gradients that it leaves, if the optimizer needs that."""
        masks = self.masks
        if masks is None or self._are_running:  # a wrapping optimizer has handed the closure on
            return closure(*args, **kwargs)
        optimizer.evaluations += 1
        if optimizer.evaluations > 1 or masks.have_changed():
            masks.apply()
        self._are_running = True
        try:
            result = closure(*args, **kwargs)
        finally:
            self._are_running = False
        if optimizer.masks_gradients:
            self._mask_gradients(masks, optimizer)
        elif self.keeper.is_needed:
            self.keeper.note(optimizer)
        return result

    def _mask_gradients(self, masks: Masks, optimizer: SteppingOptimizer) -> None:
        if optimizer.evaluations == 1:
            found = {name: self._parameters[name].grad for name in optimizer.names}
            self.dense = {name: gradient.detach().clone() for name, gradient in found.items() if gradient is not None}
        masks.apply_to_gradients(optimizer.names)

    def dense_gradient(self, name: str) -> Tensor | None:
        """Return the gradient of a parameter in this step, that of inactive weights included."""
        dense = self.dense.get(name)
        if dense is None:
            dense = self.keeper.get(name)
        return self._parameters[name].grad if dense is None else dense

    def end(self, optimizer: SteppingOptimizer) -> None:
        """Forget the gradients of a step that has ended."""
        if optimizer.masks_gradients:
            self.dense = {}
        if self.keeper.found:
            self.keeper.end(optimizer)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: nobody steps it."""
        keeper = GradientKeeper(self._parameters)
        return {**self.__dict__, "masks": None, "keeper": keeper, "dense": {}, "_are_running": False}
