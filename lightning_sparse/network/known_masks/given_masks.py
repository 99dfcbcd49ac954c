"""Masks that come from elsewhere, and the weights of a model that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_sparse.network.budget import Density, initial_counts
from lightning_sparse.network.first_masks.freshness import check_sparse_weights
from lightning_sparse.network.known_masks.mask_names import matches_name, names_in_model
from lightning_sparse.network.known_masks.saved_masks import MaskSource, read_masks
from lightning_sparse.selection.obstacles import FROZEN, examined
from lightning_sparse.selection.patterns import DEFAULT, Pattern, Patterns, as_included, as_patterns, name_list
from lightning_sparse.selection.weight import Weight
from lightning_sparse.selection.weights import is_spared, matching
from lightning_sparse.topology.measure import fetch
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError


@dataclass(frozen=True)
class GivenMasks:
    """Masks that fit a model, and the weights that they choose.

    Attributes:
        weights: The maskable weights by name, in the order of the model: those with a mask, and those kept dense.
        masks: Masks of the whole weights, bool, by name in the model.
        exclude: Patterns of weights to leave out, without those that mean no weight of the model.
        renamed: Name in the model of each mask that is used, by the name that it came with.
    """

    weights: dict[str, Weight]
    masks: dict[str, Tensor]
    exclude: tuple[Pattern, ...]
    renamed: dict[str, str]


@dataclass(frozen=True)
class _Choice:
    """Patterns of weights: to mask (empty: by default), to leave out, to keep dense."""

    included: tuple[Pattern, ...]
    excluded: tuple[Pattern, ...]
    dense: tuple[Pattern, ...]


def given_masks(
    model: nn.Module,
    masks: MaskSource | GivenMasks,
    include: Patterns | None,
    exclude: Patterns | None,
    dense: Patterns | None,
) -> GivenMasks:
    """Return masks from any source as those of a model's weights, see `read_masks` and `fit_masks`.

    Raises:
        ValueError: If they don't fit, or if weights are sparse already by other masks.
    """
    if isinstance(masks, GivenMasks):
        return masks
    given = fit_masks(model, read_masks(masks), include, exclude, dense)
    check_sparse_weights({name: weight.parameter for name, weight in given.weights.items()}, given.masks)
    return given


def fit_masks(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    dense: Patterns | None = None,
) -> GivenMasks:
    """Return masks as those of a model's weights, all of them checked.

    Names may differ from the model's by a prefix, as those of a LightningModule and of the network in it do. Masks also
    choose weights that are frozen, or not masked by default. The mask of a weight that is left out or kept dense is not
    used.

    Args:
        model: Any module whose parameters are initialized.
        masks: Masks by name.
        include: Patterns of the weights to mask; default: those that masks name, and what is masked by default.
        exclude: Patterns of weights to leave out, by their names in the model or among the masks.
        dense: Patterns of weights that stay dense.

    Raises:
        ValueError: If a mask belongs to no weight, a weight has none, or a mask has another shape or other values
            than 0 and 1.
        TypeError: If a mask is no tensor.
    """
    _check_tensors(masks)
    choice = _Choice(as_included(include), as_patterns(exclude), as_patterns(dense))
    all_weights = list(examined(model))
    _check_patterns(model, all_weights, masks, choice)
    renamed = names_in_model(masks, [weight for weight, _ in all_weights])
    unknown = [name for name in masks if name not in renamed and not matches_name(name, choice.excluded)]
    weights = _chosen(model, all_weights, set(renamed.values()), unknown, choice)
    used = {name: new for name, new in renamed.items() if new in weights and not weights[new].matches_any(choice.dense)}
    for pattern in choice.dense:
        matching(weights, pattern, model)
    fitting: dict[str, Tensor] = {}
    for name, new in used.items():
        _check_mask(name, masks[name], weights[new], fitting.get(new))
        fitting[new] = masks[name]
    here = tuple(pattern for pattern in choice.excluded if any(weight.matches(pattern) for weight, _ in all_weights))
    return GivenMasks(weights, _as_bool(fitting), here, used)


def _check_tensors(masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if not isinstance(name, str) or not isinstance(mask, Tensor):
            raise InvalidTypeError(
                expected="masks as a mapping of parameter names to bool tensors",
                got=f"{name!r}: {repr(mask)[:80]}",
                cure="a SparseNetwork's masks are such a mapping",
            )


def _check_patterns(
    model: nn.Module, all_weights: Sequence[tuple[Weight, str]], masks: Mapping[str, Tensor], choice: _Choice
) -> None:
    """Raise if a pattern means neither a weight that can be masked nor, of those to leave out, a mask."""
    candidates = {weight.name: weight for weight, obstacle in all_weights if obstacle in ("", FROZEN)}
    for pattern in choice.included:
        matching(candidates, pattern, model)
    for pattern in choice.excluded:
        if not any(matches_name(name, (pattern,)) for name in masks):
            matching(candidates, pattern, model)


def _chosen(
    model: nn.Module,
    all_weights: Sequence[tuple[Weight, str]],
    named: set[str],
    unknown: Sequence[str],
    choice: _Choice,
) -> dict[str, Weight]:
    """Return the weights that are named by masks or to mask by default; raise if these are not the same."""
    weights, missing, impossible = {}, [], []
    for weight, obstacle in all_weights:
        is_meant = weight.matches_any(choice.included or (DEFAULT,))
        wanted = is_meant and not is_spared(weight, choice.included)
        if weight.matches_any(choice.excluded) or not (weight.name in named or (wanted and not obstacle)):
            continue
        if obstacle not in ("", FROZEN):
            impossible.append(f"{weight.name} ({obstacle})")
        elif choice.included and not is_meant:
            impossible.append(f"{weight.name} (not among the layers to include)")
        elif weight.name not in named and not weight.matches_any(choice.dense):
            missing.append(weight.name)
        weights[weight.name] = weight
    faults = {
        "none for": missing,
        f"some for what {type(model).__name__} has not:": unknown,
        "some for what can't be masked:": impossible,
    }
    if found := [f"{fault} {name_list(names)}" for fault, names in faults.items() if names]:
        layers = sorted({name.rpartition(".")[0] or name for name in missing})
        raise InvalidValueError(
            expected=f"masks for all weights of {type(model).__name__} to mask, and for no others",
            got=" and ".join(found),
            cure=(
                f"exclude={layers[:8]} trains these layers densely (dense= counts them in the density, too)"
                if missing
                else "masks of the same layers, or exclude, which also leaves masks out by their names"
            ),
        )
    if not named.intersection(weights):
        raise InvalidValueError(
            expected="masks of at least one weight", got="none", cure="pass masks, or leave fewer weights out"
        )
    return weights


def _check_mask(name: str, mask: Tensor, weight: Weight, other: Tensor | None) -> None:
    if mask.shape != weight.parameter.shape:
        raise InvalidValueError(
            expected=f"a mask of shape {tuple(weight.parameter.shape)} for {weight.name!r}",
            got=tuple(mask.shape),
            cure=f"masks of the same network, or exclude={[name.rpartition('.')[0] or name]} for a layer that is new",
        )
    if other is not None and not torch.equal(other != 0, mask != 0):
        raise InvalidValueError(
            expected=f"one mask for {weight.name!r}, which is a tied weight",
            got=f"another one for {name!r}",
            cure="pass the mask of one name only",
        )


def _as_bool(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return masks as truth values.

    Raises:
        ValueError: If one has other values than 0 and 1.
    """
    others = {name: mask for name, mask in masks.items() if mask.dtype != torch.bool}
    counts = fetch([((mask != 0) & (mask != 1)).sum(dtype=torch.float64).reshape(1) for mask in others.values()])
    for name, (count,) in zip(others, counts, strict=True):
        if count:
            raise InvalidValueError(
                expected=f"a mask of 0 and 1, or of False and True, for {name!r}",
                got=f"{int(count)} other values",
                cure="pass weight != 0, for instance",
            )
    return {name: mask.detach().bool() for name, mask in masks.items()}


def counts_of_masks(
    given: GivenMasks, density: Density | None, dense: Sequence[Pattern], min_active: int
) -> dict[str, int]:
    """Return the number of active weights per layer, in which those that stay dense are full.

    Args:
        given: Masks and weights.
        density: Density that the masks have to have; None: any.
        dense: Patterns of weights that stay dense.
        min_active: Minimum number of active weights per layer.

    Raises:
        ValueError: If the masks have another density, or one has fewer active weights.
    """
    counts = {name: weight.parameter.numel() for name, weight in given.weights.items()}
    counts.update(zip(given.masks, active_weights(given.masks.values()), strict=True))
    if poor := [name for name in given.masks if counts[name] < min(min_active, given.masks[name].numel())]:
        raise InvalidValueError(
            expected=f"masks with at least {min_active} active weights per layer",
            got=f"{counts[poor[0]]} in {name_list(poor)}",
            cure="a lower min_active",
        )
    budget = None if density is None else sum(initial_counts(given.weights, density, dense=dense).values())
    if budget is not None and budget != sum(counts.values()):
        size = sum(weight.parameter.numel() for weight in given.weights.values())
        raise InvalidValueError(
            expected=f"masks with {budget} active weights, as density={density} has",
            got=f"{sum(counts.values())}, density {sum(counts.values()) / size:.6g}",
            cure="leave density out: it is that of the masks",
        )
    return counts


def active_weights(masks: Iterable[Tensor]) -> list[int]:
    """Return the number of active weights of each mask; of all of them at once, so that the device is awaited once."""
    counts = [torch.count_nonzero(mask) for mask in masks]
    return torch.stack([count.to(counts[0].device) for count in counts]).tolist() if counts else []
