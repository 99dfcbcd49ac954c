"""Handing a sparse network over: from a checkpoint, or to a module that holds the same parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from lightning_sparse.network.dtensor import shard_of
from lightning_sparse.network.first_masks.freshness import check_zero_outside
from lightning_sparse.network.known_masks.given_masks import fit_masks
from lightning_sparse.network.known_masks.saved_masks import network_state, read_file, without_masks
from lightning_sparse.network.masked_model import MaskedModel
from lightning_sparse.network.state import unpacked_masks, with_checksum
from lightning_sparse.selection.names import written_names
from lightning_sparse.selection.obstacles import examined
from lightning_sparse.selection.patterns import name_list
from lightning_sparse.validation.errors import InvalidValueError

CheckpointSource = str | PathLike[str] | Mapping[str, Any]


class _Network(Protocol):
    """A `SparseNetwork`, as far as it is needed here."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


_AnyNetwork = TypeVar("_AnyNetwork", bound=_Network)


def network_from_checkpoint(
    make: Callable[..., _AnyNetwork],
    model: nn.Module,
    source: CheckpointSource,
    weights: bool,
    options: dict[str, Any],
) -> _AnyNetwork:
    """Return a network with the masks, random state and averages of a checkpoint; see `SparseNetwork.from_checkpoint`.

    Args:
        make: The class of the network.
        model: Module that gets the masks.
        source: Path of the checkpoint, or its content.
        weights: Whether to load the model's weights, too.
        options: Options of the network.
    """
    saved = source if isinstance(source, Mapping) else read_file(source)
    state = network_state(saved)
    if state is None:
        raise without_masks(saved, "" if isinstance(source, Mapping) else f" in {str(source)!r}")
    choice = {name: options.get(name) for name in ("include", "exclude", "dense")}
    given = fit_masks(model, unpacked_masks(state), **choice)
    if weights:
        content = _weights_of(model, saved, given.renamed)
        network = make(model, masks=given, **options)
        model.load_state_dict(content)
    else:
        check_zero_outside({name: weight.parameter for name, weight in given.weights.items()}, given.masks)
        network = make(model, masks=given, **options)
    network.load_state_dict(renamed_state(state, network, given.renamed))
    return network


def renamed_state(state: Mapping[str, Any], network: _Network, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the random state, averages and gradients of a saved state as one of a network with the same masks.

    Args:
        state: State that was saved.
        network: Network that has its masks.
        names: Names of its weights by those in the saved state; others are left out.
    """
    own = network.state_dict()
    kept = {
        kind: {names[name]: values for name, values in state[kind].items() if name in names}
        for kind in ("averages", "gradients")
    }
    masks: dict[str, Any] = {name: own[name] for name in ("masks", "shapes", "initial_budget") if name in own}
    return with_checksum({**masks, "generator": state["generator"], "steps": state["steps"], **kept})


def same_parameters(network: MaskedModel, model: nn.Module) -> dict[str, str] | None:
    """Return the names that a network's maskable weights have in another module, by their own names.

    None unless the module holds all of them: the same objects, not copies.
    """
    names = {id(weight.parameter): weight.name for weight, _ in examined(model)}
    found = {name: names.get(id(parameter)) for name, parameter in network.maskable.items()}
    same = {name: new for name, new in found.items() if new is not None}
    return same if len(same) == len(found) else None


def _weights_of(model: nn.Module, saved: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the saved values of everything that a model's `state_dict` has, by its names there."""
    content, ours = saved.get("state_dict"), model.state_dict()
    if any(shard_of(parameter) is not None for parameter in model.parameters()):
        raise InvalidValueError(
            expected="a model that is not split over processes to load weights into",
            got=f"{type(model).__name__} with parameters in parts",
            cure="load the weights before, weights=False takes the masks over",
        )
    if not isinstance(content, Mapping):
        raise InvalidValueError(
            expected="the weights of the model in the checkpoint, its state_dict",
            got=f"none among {', '.join(map(str, list(saved)[:6]))}",
            cure="load the weights yourself before; weights=False takes the masks over",
        )
    theirs = _without_prefix(dict(content), renamed)
    written = {new: name for name, new in written_names(list(theirs), list(ours)).items()}
    found = {name: theirs.get(written.get(name, name)) for name in ours}
    missing = [name for name, values in found.items() if values is None]
    misshapen = [name for name, values in found.items() if values is not None and values.shape != ours[name].shape]
    if missing or misshapen:
        raise InvalidValueError(
            expected=f"all weights of {type(model).__name__} in the checkpoint",
            got=f"none, or of another shape, for {name_list([*missing, *misshapen])}",
            cure="load those that fit before, with model.load_state_dict; weights=False takes the masks over",
        )
    return {name: values for name, values in found.items() if values is not None}


def _without_prefix(values: dict[str, Tensor], renamed: Mapping[str, str]) -> dict[str, Tensor]:
    """Return values by the names that they have in the model, whose names may have a prefix more or less."""
    for old, new in renamed.items():
        if old.endswith(f".{new}"):
            prefix = old.removesuffix(new)
            return {name.removeprefix(prefix): each for name, each in values.items() if name.startswith(prefix)}
        if new.endswith(f".{old}"):
            return {new.removesuffix(old) + name: each for name, each in values.items()}
    return values
