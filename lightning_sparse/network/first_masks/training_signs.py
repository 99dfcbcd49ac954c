"""Signs that weights were trained or loaded, which random masks would mostly throw away."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from lightning_sparse.network.dtensor import to_local
from lightning_sparse.network.ranks import is_rank_zero
from lightning_sparse.selection.names import named_modules, named_parameters
from lightning_sparse.selection.patterns import name_list

_NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
# Forward passes in training mode that are no training: to find out shapes, or to initialize lazy layers.
_FEW_BATCHES = 10


def signs_of_training(model: nn.Module, masked: Iterable[str]) -> list[str]:
    """Return what shows that weights were trained or loaded, as noun phrases; empty if nothing does.

    These are normalization layers beside masked weights: that have counted batches, or whose gains and biases differ
    from each other, which no common initialization does (a layer with biases must have both: some networks draw their
    gains). Networks without normalization show nothing. All layers together wait for the device once.

    Args:
        model: Any module.
        masked: Names of the weights to mask.
    """
    layers = _beside(_normalizations(model), model, set(masked))
    rows = [_evidence(layer) for layer in layers.values()]
    numbers = torch.stack([row.to(rows[0].device) for row in rows]).tolist() if rows else []
    counted = [name for name, (batches, _) in zip(layers, numbers, strict=True) if batches > _FEW_BATCHES]
    learnt = [name for name, (_, differs) in zip(layers, numbers, strict=True) if differs]
    signs = []
    if counted:
        signs.append(f"batches counted by {name_list(counted)}")
    if learnt:
        signs.append(f"gains and biases of {name_list(learnt)} that differ from each other")
    return signs


def warn_of_random_masks(signs: Sequence[str], density: float) -> None:
    """Warn, on rank zero, that random masks are drawn for weights that were trained or loaded.

    Args:
        signs: Noun phrases for what shows it; nothing is said if there are none.
        density: Density of the masks.
    """
    if signs and is_rank_zero():
        warnings.warn(
            f"Expected weights as they are initialized, for random masks; got signs that they were trained or loaded: "
            f"{', '.join(signs)}. Random masks keep {100 * density:.3g} % of them, whatever their values. Cure: "
            "initial_masks='magnitude' keeps the largest ones; masks_from= (of a SparseNetwork: masks=) takes over the "
            "masks of an earlier run.",
            stacklevel=4,
        )


def _normalizations(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in named_modules(model) if _is_normalization(module)}


def _is_normalization(module: nn.Module) -> bool:
    # Packages have their own, of which the name says what they are: RMSNorm, T5LayerNorm, LayerNorm2d.
    gain = module._parameters.get("weight")
    return isinstance(module, _NORMALIZATIONS) or (
        "norm" in type(module).__name__.lower() and gain is not None and gain.dim() == 1
    )


def _beside(layers: dict[str, nn.Module], model: nn.Module, masked: set[str]) -> dict[str, nn.Module]:
    """Return the layers in whose block, the smallest one that has weights at all, there are masked ones."""
    weights = [name for name, parameter in named_parameters(model) if parameter.dim() > 1]
    found = {}
    for name, layer in layers.items():
        block = name
        while True:
            block = block.rpartition(".")[0]
            inside = [weight for weight in weights if weight.startswith(f"{block}." if block else "")]
            if inside or not block:
                break
        if not masked.isdisjoint(inside):
            found[name] = layer
    return found


def _evidence(layer: nn.Module) -> Tensor:
    """Return the number of batches, and whether gains and biases were learnt, int64, shape `(2,)`."""
    affine = [parameter for name in ("weight", "bias") if (parameter := layer._parameters.get(name)) is not None]
    batches = layer._buffers.get("num_batches_tracked")
    home = affine[0] if affine else batches
    zero = torch.zeros((), dtype=torch.int64, device=None if home is None else to_local(home).device)
    differ = [(values != values[:1]).any() for values in (to_local(each).detach().flatten() for each in affine)]
    learnt = torch.stack(differ).all() if differ else zero
    return torch.stack([zero if batches is None else batches.to(zero), learnt.to(zero)])


def has_stepped(optimizer: Optimizer, parameter: nn.Parameter) -> bool:
    """Tell whether an optimizer's state shows that it has stepped a parameter; some make a state before they step."""
    state = optimizer.state.get(parameter, {})
    if (steps := state.get("step")) is not None:
        return bool(steps > 0)
    return isinstance(state.get("momentum_buffer"), Tensor) or isinstance(state.get("exp_avg"), Tensor)
