"""Two networks of the same capacity: a dense one, and a wider one with as many active weights in every layer.

SC-SDC, the same-capacity sparse and dense comparison of Tessera, Hooker & Rosman, "Keep the Gradients Flowing: Using
Gradient Flow to Study Sparse Network Optimization" (2021, arXiv 2102.01670).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from lightning_sparse.network.seeding import check_seed, mask_generator
from lightning_sparse.selection.patterns import Patterns
from lightning_sparse.selection.weight import Weight
from lightning_sparse.selection.weights import find_weights
from lightning_sparse.topology.initial_masks import as_initial_masks, first_masks
from lightning_sparse.topology.layer import LayerView
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.representation import ShowsFields

Width = TypeVar("Width", int, float)
InitReference = Literal["dense", "sparse_nominal", "per_neuron_active"]


@dataclass(frozen=True, repr=False)
class SameCapacity(ShowsFields):
    """A dense network and a sparse one with exactly as many active weights in every layer.

    Attributes:
        dense: The dense network.
        sparse: The widest network, with weights that are zero where its masks are inactive.
        masks: Masks of the sparse network by parameter name, bool, True = active: for ``masks_from`` of a callback, or
            ``masks`` of a `SparseNetwork`, which keep the others at zero.
    """

    dense: nn.Module
    sparse: nn.Module
    masks: dict[str, Tensor]

    @property
    def active(self) -> dict[str, int]:
        """Number of active weights of each layer, the same in both networks."""
        return {name: int(mask.sum()) for name, mask in self.masks.items()}


def same_capacity(
    make_model: Callable[[Width], nn.Module],
    width: Width,
    max_width: Width,
    *,
    init_reference: InitReference = "dense",
    initial_masks: str | Callable[[LayerView], Tensor] = "random",
    seed: int = 0,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
) -> SameCapacity:
    """Return the dense network of a width, and the widest one masked so that every layer has as many active weights.

    Which weights are active is drawn without replacement, in each layer exactly as many as the dense network's layer
    has. Layers of the same shape in both are dense in both. Biases and normalization are never masked, so that the
    wider network has more of them. PyTorch's global random state is left as it was.

    Initial values, the weights being drawn by `make_model` itself (section 3 of the paper, whose text leaves open by
    which layer's fan-in):

    - "dense": both from the distribution of the dense network's layer. The sparse one's active weights are those of
      another draw of the dense network, in random places.
    - "sparse_nominal": both from the distribution of the widest network's layer.
    - "per_neuron_active": as "dense", but each output unit's active weights are scaled by sqrt(fan-in of the dense
      network / number of its active weights), so that units with few inputs have as large outputs. This changes the
      distribution: the two networks no longer share it.

    Args:
        make_model: Function of a width, in units or as a factor, that returns a newly initialized network, on the CPU.
        width: Width of the dense network.
        max_width: Width of the sparse network.
        init_reference: Network whose initial distribution both have.
        initial_masks: Weights that are active: "random" (the paper), "magnitude", the import path of a function, or a
            function of one `LayerView` that returns scores, of which the highest count. A rule sees the widest network
            as it was made, whose values stay with "sparse_nominal" only.
        seed: Seed for both networks' initial weights and for the masks.
        include: Patterns of the weights that are compared, as for `SparseNetwork`. Default: those of linear and
            convolutional layers.
        exclude: Patterns of weights to leave out.

    Raises:
        ValueError: If the two networks have other layers than each other, or a layer of the dense one is larger.

    >>> pair = same_capacity(lambda units: nn.Sequential(nn.Linear(4, units), nn.Linear(units, 2)), 3, 12)
    >>> pair.active, pair.sparse[0].weight.shape, int(pair.sparse[0].weight.count_nonzero())
    ({'0.weight': 12, '1.weight': 6}, torch.Size([12, 4]), 12)
    """
    if init_reference not in get_args(InitReference):
        raise InvalidValueError(
            expected=f"init_reference as one of {', '.join(map(repr, get_args(InitReference)))}",
            got=repr(init_reference),
            cure="'dense', the paper's as it reads",
        )
    rule, generator = as_initial_masks(initial_masks), mask_generator(check_seed(seed) or 0)
    dense, sparse = _drawn(make_model, width, generator), _drawn(make_model, max_width, generator)
    chosen = {"include": include, "exclude": exclude}
    weights, wide = find_weights(dense, **chosen), find_weights(sparse, **chosen)
    _check_layers(weights, wide)
    reference = _drawn(make_model, max_width if init_reference == "sparse_nominal" else width, generator)
    values = {name: parameter.detach() for name, parameter in reference.named_parameters()}
    masks: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, weight in wide.items():
            count = weights[name].parameter.numel()
            mask = layer_mask(name, weight.parameter, count, rule, generator)
            masks[name] = mask
            if init_reference == "sparse_nominal":
                weights[name].parameter.copy_(_some(values[name], count, generator).view_as(weights[name].parameter))
                weight.parameter.mul_(mask)
            else:
                weight.parameter.zero_()
                weight.parameter[mask] = _some(values[name], count, generator)
            if init_reference == "per_neuron_active":
                _scale_by_active_inputs(weight, weights[name], mask)
    return SameCapacity(dense, sparse, masks)


def _drawn(make_model: Callable[[Width], nn.Module], width: Width, generator: torch.Generator) -> nn.Module:
    """Return a newly initialized network, whose random numbers depend on the generator only."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_model(width)


def _check_layers(dense: dict[str, Weight], sparse: dict[str, Weight]) -> None:
    if list(dense) != list(sparse):
        others = sorted(set(dense) ^ set(sparse)) or list(sparse)
        raise InvalidValueError(
            expected="two widths of a network with the same layers",
            got=f"{', '.join(others)} in one of them only, or in another order",
            cure="let make_model change the layers' sizes only",
        )
    for name, weight in dense.items():
        small, large = weight.parameter, sparse[name].parameter
        if small.numel() > large.numel():
            raise InvalidValueError(
                expected=f"a dense network that is no wider than the sparse one in layer {name!r}",
                got=f"{tuple(small.shape)} and {tuple(large.shape)}",
                cure="width <= max_width",
            )


def layer_mask(
    name: str, weight: Tensor, count: int, rule: Callable[[LayerView], Tensor], generator: torch.Generator
) -> Tensor:
    """Return a mask of a layer with exactly `count` active weights, the highest by a rule.

    Args:
        name: Name of the layer.
        weight: Its weight, `(out, in, *kernel)`.
        count: Number of active weights.
        rule: Weight score, see `topology.initial_masks`.
        generator: Source of random scores.
    """
    found: dict[str, Tensor] = {}
    everywhere = torch.ones_like(weight, dtype=torch.bool)
    view = LayerView(name, weight.detach(), everywhere, generator)
    first_masks([lambda: view], [count], rule, found.__setitem__)
    return found[name]


def _some(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` of a layer's values, in random order."""
    return values.flatten()[torch.randperm(values.numel(), generator=generator)[:count]]


def _scale_by_active_inputs(weight: Weight, dense: Weight, mask: Tensor) -> None:
    dimension = 1 if isinstance(weight.places[0].module, _ConvTransposeNd) else 0  # of the output units
    fan_in = dense.parameter.numel() / dense.parameter.shape[dimension]
    others = [each for each in range(mask.dim()) if each != dimension]
    active = mask.sum(dim=others, keepdim=True).clamp(min=1)
    weight.parameter.mul_((fan_in / active).sqrt().to(weight.parameter.dtype))
