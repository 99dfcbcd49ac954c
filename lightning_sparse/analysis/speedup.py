"""Estimates of how much faster the convolutions of a sparse network could be.

The method is that of Dettmers & Zettlemoyer (2019); nothing runs faster. Each convolution of the dense network is
timed, and the time is scaled by the part of the work that a sparse implementation would keep (section 4.1 of the paper;
their code also scales by the part of the activations that is not zero).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.analysis.eager_forward import eager_evaluation
from lightning_sparse.analysis.layer_masks import active_part, masks_by_weight
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import check_integer

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class ConvolutionCost:
    """Measurements of one convolution that the estimates are computed from.

    Attributes:
        seconds: Time of its dense forward pass, summed over its calls.
        weight_density: Active part of its weights, in [0, 1].
        empty_in: Part of its input channels from which no active weight comes, in [0, 1].
        empty_out: Part of its output channels to which no active weight leads, in [0, 1].
        input_density: Part of its input's values that are not zero, in [0, 1]; with several calls the mean, weighted by
            the size of their outputs.
        empty_maps: Part of its input's feature maps, sample by sample, that are all zero, in [0, 1]; with several calls
            the same mean.
    """

    seconds: float
    weight_density: float
    empty_in: float
    empty_out: float
    input_density: float
    empty_maps: float


@dataclass(frozen=True)
class EstimatedSpeedup:
    """Dense time over estimated time of all convolutions, forward only; at least 1, infinite if nothing is left.

    Attributes:
        sparse: An ideal sparse convolution: time in proportion to active weights. The paper's text.
        sparse_with_activations: In proportion to active weights times nonzero inputs. The authors' code, and probably
            the paper's numbers.
        channels: A dense convolution that skips input channels without an active weight. The paper's text.
        channels_with_activations: A dense convolution that also skips feature maps of zeros. The authors' code.
        both_channels: A dense convolution that skips input and output channels without an active weight.
        layers: Measurements that these are computed from, by layer.
    """

    sparse: float
    sparse_with_activations: float
    channels: float
    channels_with_activations: float
    both_channels: float
    layers: dict[str, ConvolutionCost]


def estimate_speedup(
    model: nn.Module, masks: Mapping[str, Tensor] | None, inputs: Tensor | tuple[Any, ...], repeats: int = 5
) -> EstimatedSpeedup:
    """Estimate how much faster a sparse network's convolutions could be; linear layers don't count, as in the paper.

    Runs the model in evaluation mode, without gradients and not compiled, and restores its state.

    Args:
        model: A module with convolutions.
        masks: By parameter name, inactive where zero, such as ``SparseNetwork.masks``; weights without one are dense.
            None: exact zeros are inactive.
        inputs: Input of the model: a tensor ``(batch, channels, ...)``, or all its arguments as a tuple.
        repeats: Number of timed passes, >= 1, after one to warm up; each layer's time is the median.

    Raises:
        ValueError: If the model calls no convolution, a mask belongs to no parameter of the model or doesn't fit, or
            ``repeats`` is below 1.
    """
    repeats = check_integer(repeats, 1, expected="repeats >= 1, a number of timed passes", cure="5, for instance")
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    weights = None if masks is None else masks_by_weight(model, masks)
    with eager_evaluation(model) as eager:
        layers = {name: module for name, module in eager.named_modules() if isinstance(module, _CONVOLUTIONS)}
        active = {name: active_part(module.weight, weights) for name, module in layers.items()}
        profiles = _profile(eager, layers, arguments, repeats)
    if not profiles:
        raise InvalidValueError(
            expected="a model that calls convolutions",
            got=f"{type(model).__name__}, which calls none",
            cure="FLOPs and bytes of linear layers are counted by count_flops and count_bytes",
        )
    costs = {name: _cost(layers[name], active[name], *profile) for name, profile in profiles.items()}
    return speedup_of(costs)


def speedup_of(layers: Mapping[str, ConvolutionCost]) -> EstimatedSpeedup:
    """Return the estimates for convolutions whose costs are known.

    Args:
        layers: Costs of the convolutions, by name.

    >>> speedup_of({"conv": ConvolutionCost(1.0, 0.05, 0.5, 0.0, 0.5, 0.0)}).sparse_with_activations
    40.0
    """
    costs = list(layers.values())
    dense = sum(cost.seconds for cost in costs)

    def ratio(parts: list[float]) -> float:
        remaining = sum(cost.seconds * part for cost, part in zip(costs, parts, strict=True))
        return dense / remaining if remaining > 0 else float("inf")

    channels = [1 - cost.empty_in for cost in costs]
    return EstimatedSpeedup(
        sparse=ratio([cost.weight_density for cost in costs]),
        sparse_with_activations=ratio([cost.weight_density * cost.input_density for cost in costs]),
        channels=ratio(channels),
        channels_with_activations=ratio(
            [part * (1 - cost.empty_maps) for part, cost in zip(channels, costs, strict=True)]
        ),
        both_channels=ratio([part * (1 - cost.empty_out) for part, cost in zip(channels, costs, strict=True)]),
        layers=dict(layers),
    )


class _Profiler:
    """Hooks that time a layer's calls and count zeros in their inputs."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._work = self._density = self._empty = self._start = 0.0

    def before(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._start = _now(_input(arguments, named))

    def after(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        self.seconds.append(_now(output) - self._start)
        self._count_zeros(module, _input(arguments, named), output.numel())

    def _count_zeros(self, module: nn.Module, features: Tensor, work: int) -> None:
        """Add the density and the empty maps of an input, weighted by the work of its call: its number of outputs."""
        batched = features.dim() == module.weight.dim()  # type: ignore[operator]  # of a convolution
        nonzero = (features if batched else features.unsqueeze(0)) != 0
        self._work += work
        self._density += work * nonzero.double().mean().item()
        self._empty += work * (1 - nonzero.flatten(2).any(dim=2).double().mean().item())

    def profile(self, passes: int) -> tuple[float, float, float] | None:
        """Return seconds of a pass, density of the input and part of its maps that are empty; None if never called."""
        calls = len(self.seconds) // passes  # in one pass
        if not calls:
            return None
        times = [sum(self.seconds[begin : begin + calls]) for begin in range(calls, len(self.seconds), calls)]
        return statistics.median(times), self._density / self._work, self._empty / self._work


def _profile(
    model: nn.Module, layers: Mapping[str, nn.Module], arguments: tuple[Any, ...], repeats: int
) -> dict[str, tuple[float, float, float]]:
    """Return the profile of each layer that is called."""
    profilers = {name: _Profiler() for name in layers}
    handles = []
    for name, layer in layers.items():
        handles.append(layer.register_forward_pre_hook(profilers[name].before, with_kwargs=True))
        handles.append(layer.register_forward_hook(profilers[name].after, with_kwargs=True))
    try:
        for _ in range(1 + repeats):
            model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    profiles = {name: profiler.profile(1 + repeats) for name, profiler in profilers.items()}
    return {name: profile for name, profile in profiles.items() if profile is not None}


def _input(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    features: Tensor = arguments[0] if arguments else named["input"]
    return features


def _cost(module: nn.Module, active: Tensor, seconds: float, density: float, empty: float) -> ConvolutionCost:
    groups: int = module.groups  # type: ignore[assignment]  # of a convolution
    # (groups, outputs of a group, inputs of a group, positions)
    grouped = active.reshape(groups, active.shape[0] // groups, active.shape[1], -1)
    return ConvolutionCost(
        seconds=seconds,
        weight_density=active.double().mean().item(),
        empty_in=1 - grouped.any(dim=3).any(dim=1).double().mean().item(),
        empty_out=1 - active.flatten(1).any(dim=1).double().mean().item(),
        input_density=density,
        empty_maps=empty,
    )


def _now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
