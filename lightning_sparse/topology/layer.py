"""What a rule may look at, and the signatures that rules have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

import torch
from torch import Tensor

SIGNALS = ("momentum", "gradient")

_CURES = {
    "momentum": "take an optimizer step with an attached optimizer before the first topology update",
    "gradient": "update the topology after a backward pass and before the gradients are set to None",
}


class MissingSignalError(RuntimeError):
    """A rule asked for a signal that its layer does not have."""


class NonFiniteError(ValueError):
    """A weight, signal or score that a topology update depends on is NaN or infinite."""


@dataclass(frozen=True)
class LayerView:
    """The evidence about one masked weight that a rule decides by.

    Attributes:
        name: Name of the weight, for messages.
        weight: The weight, shape `(out, in, *kernel)`; exactly zero where it is inactive.
        mask: Same shape, bool, True = active.
        generator: A seeded CPU generator, the only source of randomness a rule may use.
        momentum: Same shape as the weight, defined at active and inactive positions; None if unknown.
        gradient: The dense gradient of the last step, same shape; None if unknown.
    """

    name: str
    weight: Tensor
    mask: Tensor
    generator: torch.Generator
    momentum: Tensor | None = None
    gradient: Tensor | None = None

    def require(self, signal: str) -> Tensor:
        """Return the `"momentum"` or the `"gradient"` of this layer.

        Raises:
            MissingSignalError: If the layer doesn't have it, with the cure.
            ValueError: If there is no signal of that name.
        """
        if signal not in SIGNALS:
            raise ValueError(f"Expected one of the signals {', '.join(SIGNALS)}; got {signal!r}.")
        value: Tensor | None = getattr(self, signal)
        if value is None:
            raise MissingSignalError(
                f"Expected the {signal} of layer {self.name!r}, which the chosen rule decides by; got none. "
                f"Cure: {_CURES[signal]}, or choose a rule that does without it."
            )
        return value


class LazyLayers(Sequence[LayerView]):
    """Layers as evidence, built anew at each access and not kept: only one layer's memory is in use at a time.

    Args:
        builders: One function per layer.
    """

    def __init__(self, builders: Sequence[Callable[[], LayerView]]) -> None:
        self._builders = builders

    def __len__(self) -> int:
        return len(self._builders)

    @overload
    def __getitem__(self, index: int) -> LayerView: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[LayerView]: ...

    def __getitem__(self, index: int | slice) -> LayerView | Sequence[LayerView]:
        if isinstance(index, slice):
            return LazyLayers(self._builders[index])
        return self._builders[index]()


class WeightScore(Protocol):
    """A pruning or growth rule: one score per weight, the higher the more worth having."""

    def __call__(self, layer: LayerView, /) -> Tensor:
        """Return a tensor of the weight's shape, without NaN."""


class LayerClaim(Protocol):
    """A redistribution rule: how large a share of all regrown weights a layer deserves."""

    def __call__(self, layer: LayerView, /) -> Tensor | float:
        """Return a finite number >= 0; as a zero-dimensional tensor it costs no device synchronization."""


_Rule = TypeVar("_Rule", bound=Callable[..., Any])


def uses(*signals: str) -> Callable[[_Rule], _Rule]:
    """Declare the signals that a rule needs, so that no others are tracked, kept or saved for it.

    A rule without the declaration is taken to use every signal: right, at the price of memory.
    """
    for signal in signals:
        if signal not in SIGNALS:
            raise ValueError(f"Expected signals from {', '.join(SIGNALS)}; got {signal!r}.")

    def declare(rule: _Rule) -> _Rule:
        rule.signals = frozenset(signals)  # type: ignore[attr-defined]  # functions take attributes
        return rule

    return declare


def signals_of(rule: WeightScore | LayerClaim | None) -> frozenset[str]:
    """Return the names of the signals that a rule may ask for."""
    if rule is None:
        return frozenset()
    declared: frozenset[str] = getattr(rule, "signals", frozenset(SIGNALS))
    return declared
