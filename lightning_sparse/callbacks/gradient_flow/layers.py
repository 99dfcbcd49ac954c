"""Which layers' gradients are measured, and with which masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_sparse._compat import Trainer, callbacks_of
from lightning_sparse.analysis.gradient_flow import active_counts, layer_norms
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.dtensor import to_local, whole_norms
from lightning_sparse.selection.patterns import Patterns, name_list
from lightning_sparse.selection.weights import Weight, find_trained
from lightning_sparse.validation.errors import InvalidValueError

MaskSource = Literal["auto", "zeros", "dense"]
# So many choices of parameters that are frozen are remembered.
_MOST_STATES = 16


@dataclass(frozen=True)
class Layer:
    """A weight whose gradient is measured.

    Attributes:
        name: Of the weight in the model.
        parameter: What is trained.
        mask: Inactive where zero, shape of the parameter's local part; None for a dense layer.
        active: Number of active weights where it is known without looking at the mask.
        is_masked_by_autograd: Whether the gradient comes masked already, as of a weight that PyTorch prunes.
    """

    name: str
    parameter: Tensor
    mask: Tensor | None
    active: int | None
    is_masked_by_autograd: bool = False


def network_of(trainer: Trainer, model: nn.Module) -> SparseNetwork | None:
    """Return the sparse network that one of the Trainer's callbacks made of a model, if there is one."""
    networks = (getattr(callback, "network", None) for callback in callbacks_of(trainer))
    return next((each for each in networks if isinstance(each, SparseNetwork) and each.model is model), None)


class TrainedWeights:
    """The weights of a model to measure, found anew only for parameters, or frozen ones, that are new.

    Args:
        include: Take these instead of the linear and convolutional layers.
        exclude: Leave these out.
    """

    def __init__(self, include: Patterns | None, exclude: Patterns | None) -> None:
        self._include, self._exclude = include, exclude
        # By what is trained, since modules with several optimizers freeze some parameters in turn. What was found keeps
        # its parameters alive, so that no other one can have their ids.
        self._found: dict[tuple[tuple[int, bool], ...], list[Weight]] = {}

    def find(self, model: nn.Module) -> list[Weight]:
        """Return those that are trained at this moment."""
        parameters = tuple((id(parameter), parameter.requires_grad) for parameter in model.parameters())
        if parameters not in self._found:
            if len(self._found) >= _MOST_STATES:
                self._found.clear()
            self._found[parameters] = list(find_trained(model, self._include, self._exclude).values())
        return self._found[parameters]

    def check(self, model: nn.Module) -> None:
        """See to it that there are some.

        Raises:
            ValueError: If there is none.
        """
        if not self.find(model):
            names = name_list(list(find_trained(model, "*")))
            raise InvalidValueError(
                expected="a trained layer to measure the gradient of",
                got=f"none from {type(model).__name__} with include={self._include!r}, exclude={self._exclude!r}",
                cure=f"choose from {names or 'trained layers'}",
            )


def with_masks(weights: Sequence[Weight], network: SparseNetwork | None, masks: MaskSource) -> list[Layer]:
    """Return weights with their masks of this moment.

    Args:
        weights: Of a model.
        network: Our masks of it, if there are any.
        masks: "auto" for ours or PyTorch's, "zeros" for the weights' own zeros, "dense" for none.
    """
    known = {} if network is None or masks != "auto" else network.layers
    layers = []
    for weight in weights:
        name, parameter = weight.name, weight.parameter
        effective, by_torch = _pruned(weight)
        comes_masked = by_torch is not None
        if masks == "zeros":
            layers.append(Layer(name, parameter, to_local(effective.detach()) != 0, None, comes_masked))
        elif name in known and network is not None:
            layers.append(Layer(name, parameter, network.local_mask(name), known[name].active, comes_masked))
        elif masks == "auto" and comes_masked:
            layers.append(Layer(name, parameter, by_torch, None, comes_masked))
        else:
            layers.append(Layer(name, parameter, None, parameter.numel(), comes_masked))
    return layers


def _pruned(weight: Weight) -> tuple[Tensor, Tensor | None]:
    """Return the weight that the layer uses, and the mask that PyTorch made it with, if it did."""
    kind = weight.name.rpartition(".")[2]
    if weight.module._parameters.get(f"{kind}_orig") is not weight.parameter:
        return weight.parameter, None
    return getattr(weight.module, kind), weight.module._buffers[f"{kind}_mask"]


def measure_gradients(layers: Sequence[Layer], gradients: Sequence[Tensor | None], orders: Sequence[float]) -> Tensor:
    """Return norms and active weights, shape `(2 * orders + 1, layers)`, without waiting for the device.

    The first rows are the norms of the masked gradients by order, the next those of the gradients as they are, the last
    is the number of active weights. Of weights that are split over processes, all are of the whole.

    Args:
        layers: What is measured.
        gradients: Of their parameters, or None.
        orders: Of the norms.
    """
    parts = [None if gradient is None else to_local(gradient) for gradient in gradients]
    masks = [layer.mask for layer in layers]
    masked = layer_norms(parts, orders, masks)
    plain = masked if all(mask is None for mask in masks) else layer_norms(parts, orders)
    # Counts of large layers are no float32; some devices know nothing else.
    dtype = torch.float32 if masked.device.type == "mps" else torch.float64
    norms = whole_norms(torch.cat([masked, plain]).to(dtype), [*orders, *orders], [layer.parameter for layer in layers])
    return torch.cat([norms, _active(layers, norms)[None]])


def _active(layers: Sequence[Layer], like: Tensor) -> Tensor:
    known = [layer.active for layer in layers]
    if None not in known:
        return torch.tensor(known, dtype=like.dtype).to(like.device, non_blocking=True)
    counts = active_counts([to_local(layer.parameter) for layer in layers], [layer.mask for layer in layers]).to(like)
    return whole_norms(counts[None], [1], [layer.parameter for layer in layers])[0]
