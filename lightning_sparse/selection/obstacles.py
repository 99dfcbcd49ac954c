"""All parameters of a model, each with the reason why it can't be masked, if there is one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from lightning_sparse.selection.names import named_modules
from lightning_sparse.selection.weight import Place, Weight
from lightning_sparse.validation.errors import InvalidValueError

_EMBEDDINGS: tuple[type[nn.Module], ...] = (nn.Embedding, nn.EmbeddingBag)
_NEVER: tuple[type[nn.Module], ...] = (
    _NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
    *_EMBEDDINGS,
)
FROZEN = "frozen"


def examined(model: nn.Module) -> Iterator[tuple[Weight, str]]:
    """Yield each parameter once, with the reason why it can't be masked at all, if there is one.

    Raises:
        ValueError: If a parameter is not initialized yet.
    """
    metrics = inside_metrics(model)
    for parameter, (first, *others) in _places(model):
        weight = Weight(first.name, first.module, parameter, others=tuple(others))
        yield weight, obstacle_at(first, weight, metrics)


def _places(model: nn.Module) -> list[tuple[nn.Parameter, list[Place]]]:
    """Return all parameters and where each is, in the order of the model."""
    found: dict[int, tuple[nn.Parameter, list[Place]]] = {}
    for path, module in named_modules(model, remove_duplicate=False):
        for local, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            place = Place(f"{path}.{local}" if path else local, module)
            if is_lazy(parameter):
                raise InvalidValueError(
                    expected="initialized parameters",
                    got=f"the lazy {place.name!r}",
                    cure="run one forward pass before",
                )
            places = found.setdefault(id(parameter), (parameter, []))[1]
            if place not in places:  # a wrapper may hold the same module twice
                places.append(place)
    return list(found.values())


def inside_metrics(model: nn.Module) -> set[int]:
    """Return the ids of the metrics in a model and of the modules inside them."""
    return {id(inner) for module in model.modules() if is_metric(module) for inner in module.modules()}


def is_metric(module: nn.Module) -> bool:
    """Tell whether this is a metric of torchmetrics, whose networks are no part of the model."""
    return any(cls.__name__ == "Metric" and cls.__module__.startswith("torchmetrics") for cls in type(module).__mro__)


def obstacle_at(place: Place, weight: Weight, metrics: set[int]) -> str:
    """Return why a parameter can't be masked, "" if it can.

    Args:
        place: The place to look from: of a tied parameter, the reason names the partner if it lies there.
        weight: The parameter.
        metrics: The modules that are inside of metrics, by id.
    """
    of_metric = [each for each in weight.places if id(each.module) in metrics]
    never = [each for each in weight.places if isinstance(each.module, _NEVER)]
    if of_metric:
        return "of a metric" + _tied(place, of_metric)
    if place in never:
        return "of a normalization or embedding layer"
    if never:
        kind = "an embedding" if isinstance(never[0].module, _EMBEDDINGS) else "a normalization"
        return f"of {kind} layer" + _tied(place, never)
    return _obstacle_of_its_own(weight)


def _tied(place: Place, partners: list[Place]) -> str:
    return "" if place in partners else f": tied to {partners[0].name}"


def _obstacle_of_its_own(weight: Weight) -> str:
    parameter, first = weight.parameter, weight.places[0]
    if parameter.dim() < 2:
        return "a bias, or otherwise of fewer than two dimensions"
    if isinstance(first.module, ParametrizationList) or _is_computed_from(first):
        return "parametrized: the weight is recomputed in every step"
    if not parameter.numel() or not parameter.is_floating_point():
        return "empty, or not of real floating-point numbers"
    # Last: what is frozen for now could be masked otherwise.
    return "" if parameter.requires_grad else FROZEN


def _is_computed_from(place: Place) -> bool:
    """Tell whether a hook makes a weight out of this parameter, as `torch.nn.utils.weight_norm` does."""
    weight, _, part = place.local.rpartition("_")
    return part in ("g", "v", "orig") and isinstance(vars(place.module).get(weight), Tensor)
