"""Which weights of a model can be masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from lightning_sparse.selection.computed_kernels import COMPUTED, is_computed
from lightning_sparse.selection.names import named_modules, named_parameters
from lightning_sparse.selection.obstacles import FROZEN, examined, inside_metrics, obstacle_at
from lightning_sparse.selection.patterns import DEFAULT, Pattern, Patterns, as_included, as_patterns, name_list
from lightning_sparse.selection.weight import Place, Weight
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError


def find_weights(
    model: nn.Module, include: Patterns | None = None, exclude: Patterns | None = None
) -> dict[str, Weight]:
    """Return the weights to mask by parameter name, in the order of the model.

    By default these are the weights of linear and (transposed) convolutional layers outside of attention. Biases,
    frozen parameters and whatever belongs to a normalization or embedding layer (a weight tied to an embedding too)
    are never masked. A tied weight counts once. Where a layer computes with another kernel than its weight, in which
    zeros are filled (`has_computed_kernel`), the weight is masked only if it is included by its own name or type.

    Args:
        model: Any module whose parameters are initialized.
        include: Take these instead of the default: module types, or globs on layer, parameter or type names; the word
            "default" adds the default. Other trainable parameters with two or more dimensions (LSTM, attention, your
            own) are masked if included. See `Weight.matches` for what a pattern means.
        exclude: Patterns of weights to leave out.

    Raises:
        ValueError: If nothing is left to mask or a pattern matches nothing.
        TypeError: If a pattern is neither a string nor a module type.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(
            expected="a torch.nn.Module to mask",
            got=repr(model),
            cure="pass the model itself",
        )
    candidates = {weight.name: weight for weight in _candidates(model)}
    included, excluded = as_included(include), as_patterns(exclude)
    frozen = {weight.name: weight for weight, obstacle in examined(model) if obstacle == FROZEN}
    for pattern in included:
        matching(candidates, pattern, model)
    for pattern in excluded:  # what is frozen now may be unfrozen later, and is not to be masked then
        matching({**candidates, **frozen}, pattern, model)
    chosen = {name: weight for name, weight in candidates.items() if _is_chosen(weight, included, excluded)}
    masked = {name: weight for name, weight in chosen.items() if not is_spared(weight, included)}
    if not masked:
        obstacles = name_list([f"{name} ({COMPUTED})" for name in chosen])
        obstacles = obstacles or ("" if candidates else _obstacles(model, "*"))
        raise InvalidValueError(
            expected="at least one weight to mask",
            got=(
                f"none from {type(model).__name__} with include={include!r}, exclude={exclude!r}"
                f"{obstacles and f', but {obstacles}'}"
            ),
            cure=_cure(candidates),
        )
    return masked


def is_spared(weight: Weight, included: Sequence[Pattern]) -> bool:
    """Tell whether a chosen weight stays dense, as its layer computes with another kernel and nobody named it.

    Args:
        weight: A weight that could be masked.
        included: Patterns that chose it; none for the default.
    """
    return not weight.is_named_by(included) and is_computed(weight) is True


def undecided_weights(model: nn.Module, include: Patterns | None, exclude: Patterns | None) -> dict[str, Weight]:
    """Return the weights to mask, by name, of which only use can tell whether their layers compute with them.

    Args:
        model: Any module whose parameters are initialized.
        include: Patterns, see `find_weights`; a pattern may match nothing.
        exclude: Patterns to leave out; a pattern may match nothing.
    """
    included, chosen = as_included(include), weights_by_reason(model, include, exclude)
    return {
        name: weight
        for name, weight in chosen.items()
        if not weight.is_named_by(included) and is_computed(weight) is None
    }


def _is_chosen(weight: Weight, included: Sequence[Pattern], excluded: Sequence[Pattern]) -> bool:
    wanted = weight.matches_any(included or (DEFAULT,))
    return wanted and not weight.matches_any(excluded)


def find_trained(
    model: nn.Module, include: Patterns | None = None, exclude: Patterns | None = None
) -> dict[str, Weight]:
    """Return the weights that `find_weights` chooses and those that `torch.nn.utils.prune` masks, in order.

    A weight that PyTorch prunes has the name that it had before (``fc1.weight``), and is what is trained in its place
    (``fc1.weight_orig``). Its mask is the module's buffer ``weight_mask``.

    Args:
        model: Any module whose parameters are initialized.
        include: Patterns, see `find_weights`; a pattern may match nothing.
        exclude: Patterns to leave out; a pattern may match nothing.
    """
    included, excluded = as_included(include), as_patterns(exclude)
    found = [weight for weight in [*_candidates(model), *_pruned(model)] if _is_chosen(weight, included, excluded)]
    place = {id(parameter): index for index, parameter in enumerate(model.parameters())}
    return {weight.name: weight for weight in sorted(found, key=lambda weight: place[id(weight.parameter)])}


def _pruned(model: nn.Module) -> Iterator[Weight]:
    for path, module in named_modules(model):
        for buffer, _ in module.named_buffers(recurse=False):
            local, _, kind = buffer.rpartition("_")
            parameter = module._parameters.get(f"{local}_orig")
            if kind == "mask" and parameter is not None and parameter.requires_grad and parameter.dim() > 1:
                yield Weight(f"{path}.{local}" if path else local, module, parameter)


def weights_by_reason(
    model: nn.Module, include: Patterns | None, exclude: Patterns | None, obstacle: str = ""
) -> dict[str, Weight]:
    """Return the chosen weights that can't be masked for one reason, or those that can be, by name.

    Args:
        model: Any module whose parameters are initialized.
        include: Patterns, see `find_weights`; a pattern may match nothing.
        exclude: Patterns to leave out; a pattern may match nothing.
        obstacle: The reason, `FROZEN` for instance; "" for the weights that can be masked.
    """
    included, excluded = as_included(include), as_patterns(exclude)
    return {
        weight.name: weight
        for weight, found in examined(model)
        if found == obstacle and _is_chosen(weight, included, excluded) and not is_spared(weight, included)
    }


def check_same_weights(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    include: Patterns | None = None,
    exclude: Patterns | None = None,
) -> None:
    """Raise unless the weights to mask are some that are known, and all of those are still in the model.

    Args:
        model: The model.
        parameters: The known weights by name.
        include: Patterns of weights to mask.
        exclude: Patterns of weights to leave out.

    Raises:
        ValueError: With the names of weights that are new or unfrozen, or were replaced or removed.
    """
    own = dict(named_parameters(model))
    new = [name for name in weights_by_reason(model, include, exclude) if name not in parameters]
    gone = [name for name, parameter in parameters.items() if own.get(name) is not parameter]
    for names, what in ((gone, "replaced or removed"), (new, "added or unfrozen")):
        if names:
            raise InvalidValueError(
                expected="the weights that were masked when sparse training began",
                got=f"others: {name_list(names)} {'was' if len(names) == 1 else 'were'} {what} since",
                cure=(
                    "change layers before sparse training begins, leave out with exclude what stays "
                    "dense, and use a new callback for a new set of layers"
                ),
            )


def matching(weights: dict[str, Weight], pattern: Pattern, model: nn.Module | None = None) -> list[str]:
    """Return the names of the weights that a pattern means.

    Args:
        weights: The maskable weights.
        pattern: Pattern to look for.
        model: Model to search for the reason if nothing matches.

    Raises:
        ValueError: If there are none: most likely a typing error, which must not pass for an empty wish.
    """
    names = [name for name, weight in weights.items() if weight.matches(pattern)]
    if not names:
        means = "" if model is None else _obstacles(model, pattern)
        raise InvalidValueError(
            expected="a pattern that matches a maskable weight",
            got=f"{pattern!r}{means and f', which is {means}'}",
            cure=_cure(weights),
        )
    return names


def _obstacles(model: nn.Module, pattern: Pattern) -> str:
    """Return what a pattern means that can't be masked, and why, as a list; empty if it means nothing."""
    metrics, modules = inside_metrics(model), dict(named_modules(model))
    found = {}
    for weight, reason in examined(model):
        # A weight that is parametrized is meant by the name that it had before.
        owner, _, rest = f".{weight.name}".partition(".parametrizations.")
        before = Place(f"{owner}.{rest.partition('.')[0]}"[1:], modules[owner[1:]]) if rest else None
        for place in weight.places if reason else ():
            if before is not None and (before.matches(pattern) or place.matches(pattern)):
                found[before.name] = reason
            elif place.matches(pattern):
                found[place.name] = obstacle_at(place, weight, metrics)
    return name_list([f"{name} ({why})" for name, why in found.items()])


def _cure(weights: dict[str, Weight]) -> str:
    if not weights:
        return "the model needs trainable linear or convolutional layers"
    return f"choose from {name_list(list(weights))}"


def why_unmasked(model: nn.Module, include: Patterns | None = None, exclude: Patterns | None = None) -> dict[str, str]:
    """Return why `find_weights` leaves a parameter out, by name, for each that it leaves out."""
    chosen = weights_by_reason(model, include, exclude)
    included, excluded = as_included(include), as_patterns(exclude)
    reasons = {}
    for weight, obstacle in examined(model):
        if weight.name in chosen:
            continue
        if obstacle:
            reasons[weight.name] = obstacle
        elif weight.matches_any(excluded):
            reasons[weight.name] = "excluded on request"
        elif weight.matches_any(included or (DEFAULT,)):
            reasons[weight.name] = COMPUTED
        elif include is not None:
            reasons[weight.name] = "not among the layers to include"
        else:
            reasons[weight.name] = "neither linear nor convolutional: masked on request only (include)"
    return reasons


def _candidates(model: nn.Module) -> Iterator[Weight]:
    return (weight for weight, obstacle in examined(model) if not obstacle)
