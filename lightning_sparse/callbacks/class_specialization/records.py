"""What measurements of class specialization leave: results by layer, pictures of them, and a word if one fails."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# By layer, what `ClassSpecialization` computes.
Result = dict[str, dict[str, Tensor]]


def without_proportions(result: Result) -> Result:
    """Return a result without what is large: the table of channels and classes."""
    return {
        layer: {name: value for name, value in computed.items() if name != "proportions"}
        for layer, computed in result.items()
    }


def copied(history: dict[int, Result]) -> dict[int, Result]:
    """Return a history that shares nothing but tensors."""
    return {epochs: {layer: dict(computed) for layer, computed in result.items()} for epochs, result in history.items()}


def drawn(result: Result) -> Figure:
    """Return a picture of the channels of each layer; needs the proportions."""
    from lightning_sparse.analysis.pictures import plot_specialization

    classes = next(iter(result.values()))["proportions"].shape[-1]
    return plot_specialization({layer: found["specialization"] for layer, found in result.items()}, None, classes)


def warn_of_failure(error: Exception, epochs: int) -> None:
    """Warn that there is no measurement after so many epochs, in a fit that goes on or ends as it would have."""
    warnings.warn(
        f"Expected to measure class specialization after {epochs} epochs; got {type(error).__name__}: {error} The "
        "training is not touched by this. Cure: that of this error; then measure the trained module by trainer.test, "
        "with when='test'.",
        stacklevel=2,
    )
