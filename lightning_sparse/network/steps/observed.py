"""What is known of an optimizer whose steps are observed."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch.nn import Parameter
from torch.optim import Optimizer


@dataclass(eq=False, slots=True)
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
        evaluates_once: Whether its steps evaluate a closure once, before they change anything.
        leaves_out: Whether it is to leave its next step out.
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
    evaluates_once: bool = False
    leaves_out: bool = False

    def leave_out(self, leave_out: bool) -> None:
        """Leave out the step that it is in, whose closure has just made the gradients, else the next one; or not."""
        self.leaves_out = leave_out
        if leave_out and self.stepping:
            self.drop_gradients()

    def drop_gradients(self) -> None:
        """Set its gradients to None: optimizers leave such parameters alone, with their momentum and weight decay."""
        self.leaves_out = False
        optimizer = self.optimizer()
        for group in optimizer.param_groups if optimizer is not None else ():
            for parameter in group["params"]:
                parameter.grad = None
