"""The gradients of the latest optimizer step, which may turn out to be the last one of its epoch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_sparse.callbacks.gradient_flow.layers import TrainedWeight


class LatestStep:
    """Refer to the gradients of a step as long as they are what the optimizer got.

    A Trainer may end an epoch after any batch, and says so only after the step. Until the next backward pass clears the
    gradients they are in memory anyway, so that holding on to them costs neither memory nor a copy. What changes them
    in place meanwhile, as clipping does, is seen by the version that PyTorch counts for each tensor.

    Args:
        epoch: Number of the epoch, from 0 on.
        step: Batches that ended with an optimizer step before this one.
        optimizer: Number of the optimizer; None if there is only one.
        weights: Weights to measure whose gradients are ready.
        of_zeros: Gradients of the parameters that the network started at zero with.
    """

    def __init__(
        self,
        epoch: int,
        step: int,
        optimizer: int | None,
        weights: Sequence[TrainedWeight],
        of_zeros: Sequence[Tensor | None],
    ) -> None:
        self.epoch, self.step, self.optimizer = epoch, step, optimizer
        self.weights, self.of_zeros = weights, of_zeros
        self._gradients = [weight.parameter.grad for weight in weights]
        self._versions = [None if gradient is None else gradient._version for gradient in self._gradients]

    @property
    def has_gradients(self) -> bool:
        """Whether any of the weights has a gradient."""
        return any(version is not None for version in self._versions)

    @property
    def were_cleared(self) -> bool:
        """Whether the first weight that had a gradient has another one by now, or none."""
        pairs = zip(self.weights, self._gradients, strict=True)
        return next((weight.parameter.grad is not kept for weight, kept in pairs if kept is not None), False)

    @property
    def gradients(self) -> list[Tensor | None] | None:
        """The gradients that the optimizer got, None for weights without; None if they were changed in place since."""
        versions = [None if gradient is None else gradient._version for gradient in self._gradients]
        return self._gradients if versions == self._versions else None
