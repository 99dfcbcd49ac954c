"""What a rule may look at, and the signatures that rules have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from lightning_sparse.topology.sharding import Shard, total
from lightning_sparse.validation.errors import InvalidStateError, InvalidTypeError, InvalidValueError
from lightning_sparse.validation.representation import ShowsFields

# Those that a network knows of itself; a method may bring signals of its own.
SIGNALS = ("momentum", "gradient")

# How many multiplications one weight of a layer costs per example: one number for the layer, zero-dimensional, which a
# network learns where a rule declares it. A rule without a declaration doesn't get it.
MULTIPLICATIONS = "multiplications"

_CURES = {
    "momentum": "take an optimizer step with an attached optimizer before the first topology update",
    "gradient": "update the topology after a backward pass, and drop gradients with zero_grad(set_to_none=True)",
    MULTIPLICATIONS: (
        "take an optimizer step after attach(optimizer, track_multiplications=True) before the first topology update, "
        "in which the layer is called as a module; before PyTorch 2.6 not compiled; or pass a number for each weight "
        "to rewire() in signals"
    ),
}
_CURE_OF_OTHERS = "ask for momentum or gradient, or pass it to rewire() in signals, as a method does that defines it"


class MissingSignalError(InvalidStateError):
    """A rule asked for a signal that its layer does not have."""


class NonFiniteError(InvalidValueError):
    """A weight, signal or score that a topology update depends on is NaN or infinite."""


@dataclass(frozen=True, repr=False)
class LayerView(ShowsFields):
    """The evidence about one masked weight that a rule decides by.

    With a shard, every tensor holds this process's part of what is split over processes; the part may be empty.

    Attributes:
        name: Name of the weight, for messages.
        weight: The weight, shape `(out, in, *kernel)`; exactly zero where it is inactive.
        mask: Same shape, bool, True = active.
        generator: A seeded CPU generator, the only source of randomness a rule may use.
        momentum: Same shape as the weight, defined at active and inactive positions; None if unknown.
        gradient: The dense gradient of the last step, same shape; None if unknown.
        shard: Place of the part in the whole weight; None if the tensors are those of the whole weight. The
            generators of all parts are in the same state.
        others: Further signals by name: those of a method that defines its own, same shape; and "multiplications", the
            number of multiplications that one weight costs per example, > 0, zero-dimensional.

    Raises:
        ShardingError: If the weight is no part of what the shard describes.
    """

    name: str
    weight: Tensor
    mask: Tensor
    generator: torch.Generator
    momentum: Tensor | None = None
    gradient: Tensor | None = None
    shard: Shard | None = None
    others: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shard is not None:
            self.shard.check(self.weight.shape)

    @property
    def size(self) -> int:
        """Number of weights, those of all parts."""
        return self.weight.numel() if self.shard is None else self.shard.size

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor (int64 or float64) over all parts of the weight, elementwise, on its device.

        All parts must call it equally often. Sums of integers, unlike others, don't depend on how the weight is split.
        """
        return total(values, self.shard)

    def noise(self) -> Tensor:
        """Return uniform noise in [0, 1), float32, of the weight's shape and on its device.

        It is drawn on the CPU and for the whole weight, so that it is the same on every device and however the weight
        is split. All parts must call it equally often.
        """
        shape = self.weight.shape
        if self.shard is None:
            noise = torch.rand(shape, generator=self.generator, dtype=torch.float32, device="cpu")
        else:
            whole = torch.rand(self.shard.shape, generator=self.generator, dtype=torch.float32, device="cpu")
            noise = self.shard.part_of(whole, shape)
        return noise.to(self.weight.device, non_blocking=True)

    def require(self, signal: str) -> Tensor:
        """Return the `"momentum"`, the `"gradient"`, the `"multiplications"` or another signal.

        All parts must call it equally often. Only the multiplications are one number, zero-dimensional.

        Raises:
            MissingSignalError: If the layer, or any part of it, doesn't have it, with the cure.
        """
        value: Tensor | None = getattr(self, signal) if signal in SIGNALS else self.others.get(signal)
        missing = value is None
        if self.shard is not None:
            flag = torch.full((1,), int(missing), dtype=torch.int64, device=self.weight.device)
            missing = bool(self.total(flag).item())
        if missing or value is None:
            raise MissingSignalError(
                expected=f"the {signal} of layer {self.name!r}, which the chosen rule decides by",
                got="none",
                cure=f"{_CURES.get(signal, _CURE_OF_OTHERS)}, or choose a rule that does without it",
            )
        return value


@contextmanager
def unchanged(layer: LayerView, rule: object) -> Iterator[None]:
    """Raise if a rule changes what it is to look at, as `weight.abs_()` does where `weight.abs()` was meant.

    Raises:
        ValueError: If it does. What it changed stays changed: copies would cost the memory of all layers.
    """
    tensors = {kind: getattr(layer, kind) for kind in ("weight", "mask", *SIGNALS)} | dict(layer.others)
    before = {kind: tensor._version for kind, tensor in tensors.items() if tensor is not None}
    yield
    if changed := [kind for kind, version in before.items() if tensors[kind]._version != version]:
        raise InvalidValueError(
            expected=f"a rule that leaves layer {layer.name!r} as it is",
            got=f"{rule!r}, which changes its {' and '.join(changed)} in place",
            cure="copy before, with clone(), or use no functions that end in _",
        )


class WeightScore(Protocol):
    """A pruning or growth rule: one score per weight, the higher the more worth having."""

    def __call__(self, layer: LayerView, /) -> Tensor:
        """Return a tensor of the weight's shape, without NaN."""


class LayerClaim(Protocol):
    """A redistribution rule: how large a share of all regrown weights a layer deserves."""

    def __call__(self, layer: LayerView, /) -> Tensor | float:
        """Return a finite number >= 0; as a zero-dimensional tensor it costs no device synchronization."""


class LayerCount(Protocol):
    """A rule that says how many active weights a layer loses, where no prune rate does: those that crossed a limit."""

    def __call__(self, layer: LayerView, /) -> Tensor | int:
        """Return an integer from 0 to the number of active weights; of a part of a weight, that of the part.

        As a zero-dimensional integer tensor it costs no device synchronization.
        """


_Rule = TypeVar("_Rule", bound=Callable[..., Any])


def uses(*signals: str, shardable: bool = False) -> Callable[[_Rule], _Rule]:
    """Declare the signals that a rule needs, so that no others are tracked, kept or saved for it.

    A rule without the declaration is taken to use every signal: right, at the price of memory.

    Args:
        signals: "momentum", "gradient", "multiplications", or the name of a signal that a method defines.
        shardable: Whether the rule works on one part of a weight that is split over processes: each score depends
            only on its own position or on what `LayerView.total` and `LayerView.noise` return, a claim only on these.
    """
    if wrong := [signal for signal in signals if not isinstance(signal, str) or not signal]:
        raise InvalidTypeError(
            expected="names of signals",
            got=repr(wrong[0]),
            cure="uses() declares none",
        )

    def declare(rule: _Rule) -> _Rule:
        rule.signals = frozenset(signals)  # type: ignore[attr-defined]  # functions take attributes
        rule.shardable = shardable  # type: ignore[attr-defined]  # functions take attributes
        return rule

    return declare


def signals_of(rule: WeightScore | LayerClaim | LayerCount | None) -> frozenset[str]:
    """Return the names of the signals that a rule may ask for."""
    if rule is None:
        return frozenset()
    declared: frozenset[str] = getattr(rule, "signals", frozenset(SIGNALS))
    return declared


def is_shardable(rule: WeightScore | LayerClaim | LayerCount | None) -> bool:
    """Tell whether a rule is declared to work on one part of a weight."""
    return rule is None or bool(getattr(rule, "shardable", False))
