"""Layers whose gradients are measured, their masks, and the norms of their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_sparse._compat import Trainer
from lightning_sparse.analysis.gradient_flow import active_counts, layer_norms
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.dtensor import to_local, whole_norms
from lightning_sparse.selection.obstacles import FROZEN
from lightning_sparse.selection.patterns import Patterns, name_list
from lightning_sparse.selection.weight import Weight
from lightning_sparse.selection.weights import find_trained, weights_by_reason
from lightning_sparse.validation.errors import InvalidValueError

MaskSource = Literal["auto", "zeros", "dense"]
# Cache size: distinct sets of frozen parameters.
_CACHE_SIZE = 16


@dataclass(frozen=True)
class TrainedWeight(Weight):
    """A weight to measure.

    Attributes:
        name: Name of the parameter in the model, without what wrappers add.
        module: Module that owns the parameter.
        parameter: Parameter that is trained.
        is_split: Whether it is split over processes.
    """

    is_split: bool


@dataclass(frozen=True)
class Layer:
    """A weight whose gradient is measured.

    Attributes:
        name: Name of the weight in the model.
        parameter: Parameter that is trained.
        mask: Mask with the shape of the parameter's local part, inactive where zero; None for a dense layer.
        active: Number of active weights if it is known without reading the mask.
        is_masked_by_autograd: Whether the gradient comes masked already, as of a weight that PyTorch prunes.
        is_split: Whether the parameter is split over processes.
    """

    name: str
    parameter: Tensor
    mask: Tensor | None
    active: int | None
    is_masked_by_autograd: bool
    is_split: bool


def network_of(trainer: Trainer, model: nn.Module) -> SparseNetwork | None:
    """Return the sparse network that one of the Trainer's callbacks made of a model, if there is one."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # an attribute that Lightning doesn't declare
    networks = (getattr(callback, "network", None) for callback in callbacks)
    return next(
        (network for network in networks if isinstance(network, SparseNetwork) and network.model is model), None
    )


class TrainedWeights:
    """The weights of a model to measure; searched for again only when parameters are replaced, frozen or unfrozen.

    Without patterns they are the weights that a sparse network masks and those that PyTorch prunes; without a sparse
    network all of the linear and convolutional layers.

    Args:
        include: Patterns of weights to measure instead.
        exclude: Patterns of weights to leave out.
    """

    def __init__(self, include: Patterns | None, exclude: Patterns | None) -> None:
        self._include, self._exclude = include, exclude
        # By trained parameters, since modules with several optimizers freeze some of them in turn. The weights keep
        # their parameters alive, so that no other one can have their ids.
        self._cache: dict[tuple[object, ...], list[TrainedWeight]] = {}

    def find(self, model: nn.Module, network: SparseNetwork | None = None) -> list[TrainedWeight]:
        """Return the weights that are trained now.

        Args:
            model: Model to measure.
            network: Sparse network of the model, if there is one.
        """
        chosen = self._include is not None or self._exclude is not None
        masked = None if network is None or chosen else frozenset(network.layer_densities)
        parameters = tuple((id(parameter), parameter.requires_grad) for parameter in model.parameters())
        if (masked, parameters) not in self._cache:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._cache[masked, parameters] = [
                TrainedWeight(
                    weight.name, weight.module, weight.parameter, to_local(weight.parameter) is not weight.parameter
                )
                for weight in self._search(model, masked)
            ]
        return self._cache[masked, parameters]

    def _search(self, model: nn.Module, masked: frozenset[str] | None) -> list[Weight]:
        if masked is None:
            return list(find_trained(model, self._include, self._exclude).values())
        every = find_trained(model, "*").values()
        return [weight for weight in every if weight.name in masked or _pruned(weight)[1] is not None]

    def check(self, model: nn.Module, network: SparseNetwork | None = None) -> None:
        """Raise if there is nothing to measure, now or when frozen layers are trained.

        Raises:
            ValueError: If the patterns match no layer that can be trained.
        """
        if any(map(is_lazy, model.parameters())) or self.find(model, network):  # lazy ones may be among them
            return
        if not weights_by_reason(model, self._include, self._exclude, FROZEN):
            names = name_list(list(find_trained(model, "*")))
            raise InvalidValueError(
                expected="a trained layer to measure the gradient of",
                got=f"none from {type(model).__name__} with include={self._include!r}, exclude={self._exclude!r}",
                cure=f"choose from {names or 'trained layers'}",
            )


def with_masks(weights: Sequence[TrainedWeight], network: SparseNetwork | None, masks: MaskSource) -> list[Layer]:
    """Return weights with their present masks.

    Args:
        weights: Weights of a model.
        network: Sparse network of the model, if there is one.
        masks: "auto" for the network's masks or PyTorch's, "zeros" for the weights' own zeros, "dense" for none.
    """
    ours = {} if network is None or masks != "auto" else network.layers
    layers = []
    for weight in weights:
        name, parameter = weight.name, weight.parameter
        effective, by_torch = _pruned(weight)
        mask, active = None, None
        if masks == "zeros":
            mask = to_local(effective.detach()) != 0
        elif name in ours and network is not None:
            mask, active = network.local_mask(name), ours[name].active
        elif masks == "auto" and by_torch is not None:
            mask = by_torch
        else:
            active = parameter.numel()
        layers.append(Layer(name, parameter, mask, active, by_torch is not None, weight.is_split))
    return layers


def _pruned(weight: Weight) -> tuple[Tensor, Tensor | None]:
    """Return the weight that the layer computes with, and the mask that PyTorch prunes it by, if it does."""
    kind = weight.name.rpartition(".")[2]
    if weight.module._parameters.get(f"{kind}_orig") is not weight.parameter:
        return weight.parameter, None
    return getattr(weight.module, kind), weight.module._buffers[f"{kind}_mask"]


def measure_gradients(layers: Sequence[Layer], gradients: Sequence[Tensor | None], orders: Sequence[float]) -> Tensor:
    """Return norms and active weights, shape `(2 * orders + 1, layers)`, without waiting for the device.

    The first rows are the norms of the masked gradients by order, the next the norms of the unmasked gradients, the
    last row has the number of active weights. For weights that are split over processes, all are of the whole weight.

    Args:
        layers: Layers to measure.
        gradients: Gradients of their parameters, or None.
        orders: Orders of the norms.
    """
    pairs = zip(layers, gradients, strict=True)
    parts = [to_local(gradient) if layer.is_split and gradient is not None else gradient for layer, gradient in pairs]
    masks = [layer.mask for layer in layers]
    masked = layer_norms(parts, orders, masks)
    plain = masked if all(mask is None for mask in masks) else layer_norms(parts, orders)
    # float32 can't count the weights of large layers, but some devices have no float64.
    dtype = torch.float32 if masked.device.type == "mps" else torch.float64
    norms = _over_processes(torch.cat([masked, plain]).to(dtype), [*orders, *orders], layers)
    return torch.cat([norms, _active(layers, norms)[None]])


def _active(layers: Sequence[Layer], like: Tensor) -> Tensor:
    known = [layer.active for layer in layers]
    if None not in known:
        return torch.tensor(known, dtype=like.dtype).to(like.device, non_blocking=True)
    parameters = [to_local(layer.parameter) if layer.is_split else layer.parameter for layer in layers]
    counts = active_counts(parameters, [layer.mask for layer in layers]).to(like)
    return _over_processes(counts[None], [1], layers)[0]


def _over_processes(norms: Tensor, orders: Sequence[float], layers: Sequence[Layer]) -> Tensor:
    if not any(layer.is_split for layer in layers):
        return norms
    return whole_norms(norms, orders, [layer.parameter for layer in layers])
