"""A weight, the names it has in a model, and whether a pattern means it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lightning_sparse.selection.patterns import DEFAULT, Pattern

DEFAULT_TYPES: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(frozen=True)
class Place:
    """One of the places at which a parameter is part of a model; a tied one has several.

    Attributes:
        name: Name of the parameter there, without what wrappers add.
        module: The module that owns it there.
    """

    name: str
    module: nn.Module

    @property
    def local(self) -> str:
        """Name of the parameter within its module."""
        return self.name.rpartition(".")[2]

    @property
    def is_default(self) -> bool:
        """Whether it is the weight of a linear or convolutional layer outside of attention."""
        is_part_of_attention = isinstance(self.module, NonDynamicallyQuantizableLinear)
        return isinstance(self.module, DEFAULT_TYPES) and not is_part_of_attention and self.local == "weight"

    def matches(self, pattern: Pattern) -> bool:
        """Tell whether a pattern means the parameter at this place, see `Weight.matches`."""
        if pattern == DEFAULT:
            return self.is_default
        if isinstance(pattern, type):
            return isinstance(self.module, pattern) and self._is_meant_by_type()
        names = (self.name, self.name.rpartition(".")[0])
        if any(fnmatchcase(name, pattern) for name in names):
            return True
        return fnmatchcase(type(self.module).__name__, pattern) and self._is_meant_by_type()

    def _is_meant_by_type(self) -> bool:
        """Tell whether this is a weight of its module, and not a gain, for instance, beside a parameter `weight`."""
        owned = self.module._parameters
        weights = [owned[name] for name in _WEIGHT if owned.get(name) is not None]
        return self.local in _WEIGHT or not any(weight is not None and weight.dim() > 1 for weight in weights)


# The second is what torch.nn.utils.prune makes of the first.
_WEIGHT = ("weight", "weight_orig")


@dataclass(frozen=True)
class Weight:
    """A parameter that can be masked, and where it sits.

    Attributes:
        name: Name of the parameter in the model, without what wrappers add: the first one, if it is tied.
        module: The module that owns it.
        parameter: The parameter, at least two-dimensional.
        others: Its other places, if it is tied.
    """

    name: str
    module: nn.Module
    parameter: nn.Parameter
    others: tuple[Place, ...] = field(default=(), kw_only=True)

    @property
    def places(self) -> tuple[Place, ...]:
        """All places of the parameter, in the order of the model."""
        return (Place(self.name, self.module), *self.others)

    def matches(self, pattern: Pattern) -> bool:
        """Tell whether a pattern means this weight, by any of its names.

        A glob on names of parameters or layers means every parameter that it matches. A module type, or a glob on the
        names of types, means the parameter called `weight` of such a module; of a module that has none with two or more
        dimensions (LSTM, attention), all parameters. The word "default" means what is masked by default: linear and
        convolutional layers.
        """
        places = self.places[:1] if pattern == DEFAULT else self.places
        return any(place.matches(pattern) for place in places)

    def is_named_by(self, patterns: Iterable[Pattern]) -> bool:
        """Tell whether one of the patterns is a name of this weight or layer, or a type other than PyTorch's own.

        Such a pattern means this layer and its like, where `torch.nn.Conv2d` or a glob mean others as well.
        """
        names = {
            name
            for place in self.places
            for name in (place.name, place.name.rpartition(".")[0], type(place.module).__name__)
        }
        own = [each for each in patterns if not (isinstance(each, type) and each.__module__.startswith("torch."))]
        return any(self.matches(each) if isinstance(each, type) else each in names - {""} for each in own)

    def matches_any(self, patterns: Iterable[Pattern]) -> bool:
        """Tell whether one of several patterns means this weight."""
        return any(map(self.matches, patterns))
