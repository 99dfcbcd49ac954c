"""What is to happen after a number of optimizer steps, in any training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_sparse.network.optimizer_steps import OptimizerStepObserver


class StepWatch(OptimizerStepObserver):
    """Calls a function once, when the weights have been stepped a number of times.

    Steps count as in `SparseNetwork.steps`: a step that a gradient scaler skips doesn't, batches whose gradients are
    accumulated are one step, and of several optimizers the busiest one counts.

    Args:
        parameters: The masked weights by name.
        step: Number of steps, at least 1.
        then: Function without arguments.
    """

    def __init__(self, parameters: Mapping[str, Parameter], step: int, then: Callable[[], object]) -> None:
        super().__init__(parameters)
        self._step, self._then = step, then
        self._is_done = False

    def _after_step(self, optimizer: Optimizer | None, names: Sequence[str], trained: Sequence[str] | None) -> None:
        # An optimizer that wraps another one may change the weights after the step of that one.
        if self._is_done or self.steps < self._step or any(seen.stepping for seen in self._seen.values()):
            return
        self._is_done = True
        self._then()
