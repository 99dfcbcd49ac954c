"""The gradients of the latest optimizer step, which may turn out to be the last one of its epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from lightning_sparse.callbacks.gradient_flow.layers import TrainedWeight
from lightning_sparse.callbacks.gradient_flow.records import Place


class LatestStep:
    """Refer to the gradients of a step as long as they are what the optimizer got.

    A Trainer may end an epoch after any batch, and says so only after the step. Until the next backward pass clears the
    gradients they are in memory anyway, so that referring to them costs neither memory nor a copy. What changes them in
    place meanwhile, as clipping does, is seen by the version that PyTorch counts for each tensor, of the first and the
    last of them: this is made at every step, and even to look at each layer would take longer than all the rest.

    Args:
        place: Place of the step in the run.
        weights: Weights to measure whose gradients are ready.
        of_zeros: Gradients of the parameters that the network started at zero with.
        holds: Whether to hold the gradients themselves, as before a validation, for which Lightning clears them.
    """

    __slots__ = ("_gradients", "_watched", "of_zeros", "place", "weights")

    def __init__(
        self, place: Place, weights: Sequence[TrainedWeight], of_zeros: Sequence[Tensor | None], *, holds: bool
    ) -> None:
        self.place, self.weights, self.of_zeros = place, weights, of_zeros
        self._gradients = [weight.parameter.grad for weight in weights] if holds else None
        self._watched = [
            watched for order in (1, -1) if (watched := _first_with_gradient(weights[::order])) is not None
        ]

    @property
    def epoch(self) -> int:
        """Number of the step's epoch, from 0 on."""
        return self.place[0]

    @property
    def has_gradients(self) -> bool:
        """Whether any of the weights has a gradient."""
        return bool(self._watched)

    @property
    def were_changed(self) -> bool:
        """Whether gradients were changed in place since."""
        return any(gradient._version != version for _, gradient, version in self._watched)

    @property
    def were_cleared(self) -> bool:
        """Whether weights have other gradients by now, or none."""
        return any(parameter.grad is not gradient for parameter, gradient, _ in self._watched)

    @property
    def gradients(self) -> list[Tensor | None]:
        """The gradients that the optimizer got, None for weights without."""
        return [weight.parameter.grad for weight in self.weights] if self._gradients is None else self._gradients

    @property
    def can_be_measured(self) -> bool:
        """Whether the gradients are still known."""
        return self._gradients is not None or not self.were_cleared


def _first_with_gradient(weights: Iterable[TrainedWeight]) -> tuple[Tensor, Tensor, int] | None:
    """Return the first parameter with a gradient, the gradient and its version; None if none has one."""
    for weight in weights:
        if (gradient := weight.parameter.grad) is not None:
            return weight.parameter, gradient, gradient._version
    return None
