"""Where optimizers keep the momentum of a weight: a table of families, by the class whose `step` an optimizer runs.

The name of a state entry doesn't say what is in it: an `exp_avg` may hold gradients that are normalized already, other
coordinates than those of the weight, or no momentum at all. So an optimizer is read only if its class is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from inspect import unwrap
from typing import Any

from torch.optim import Optimizer

from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

# Options on which the size of a momentum depends, in the families that users add.
SCALE_OPTIONS = ("momentum", "dampening", "betas", "beta1", "beta2", "alpha", "eps", "weight_decay")


@dataclass(frozen=True)
class MomentumFamily:
    """One definition of momentum, and where optimizers of this family keep its parts.

    Args:
        name: Name of the definition; momentum of different ones is not on one scale.
        first: Entry of the state that holds the average (or the sum) of gradients.
        second: Entry with the average of squared gradients; the first is divided by its square root plus `eps`.
        largest: Entry with the largest gradient so far, instead of `second`; the first is divided by it plus `eps`.
        options: Options of parameter groups on which the size of the momentum depends: weights whose groups differ in
            one of them have momentum on different scales.
        required: Option that is zero where the optimizer keeps no momentum.
        decoupled: Weight decay is not part of the gradients that are averaged.
    """

    name: str
    first: str
    second: str | None = None
    largest: str | None = None
    options: tuple[str, ...] = SCALE_OPTIONS
    required: str | None = None
    decoupled: bool = False

    # What is read, from the entries of the state.
    formula: str = field(init=False)
    # Entries of the state that are read.
    entries: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        formula = self.first if self.largest is None else f"{self.first} / ({self.largest} + eps)"
        if self.second is not None:
            formula = f"{self.first} / (sqrt({self.second}) + eps)"
        entries = tuple(entry for entry in (self.first, self.second, self.largest) if entry is not None)
        object.__setattr__(self, "formula", formula)  # a frozen dataclass
        object.__setattr__(self, "entries", entries)


# The buffer lacks the factor `1 - momentum` of the paper's average, which changes no rank and no share. Weight decay is
# in it, which is zero for inactive weights.
_SGD = MomentumFamily("SGD", "momentum_buffer", options=("momentum", "dampening", "weight_decay"), required="momentum")
# Without bias correction, as in the original authors' library; it is one factor for all weights.
_ADAM = MomentumFamily("Adam", "exp_avg", "exp_avg_sq", options=("betas", "eps", "weight_decay"))
_ADAMW = replace(_ADAM, decoupled=True)
_ADAMAX = MomentumFamily("Adamax", "exp_avg", largest="exp_inf", options=("betas", "eps", "weight_decay"))
_RMSPROP = MomentumFamily(
    "RMSprop",
    "momentum_buffer",
    options=("momentum", "alpha", "eps", "centered", "weight_decay"),
    required="momentum",
)
_LION = MomentumFamily("Lion", "exp_avg", options=("betas",))
# Here the buffer is an average: the gradient enters it with the factor `1 - momentum`.
_MUON = MomentumFamily("Muon", "momentum_buffer", options=("momentum",))

# The first moment alone is an average of gradients, whatever it is divided by in the step.
_FIRST_MOMENT = MomentumFamily("first moment", "exp_avg", options=("betas", "weight_decay"))

# By the path of the class, so that nothing is imported. Every entry was compared with averages written out; see
# docs/optimizers.md. What is missing has averages kept for it: quantized and low-rank states, averages of gradients
# that are normalized already, or of which a layer's norm was divided out.
_FAMILIES: dict[str, MomentumFamily] = {
    "torch.optim.sgd.SGD": _SGD,
    "torch.optim.adam.Adam": _ADAM,
    "torch.optim.adamw.AdamW": _ADAMW,
    "torch.optim.nadam.NAdam": _ADAM,
    "torch.optim.radam.RAdam": _ADAM,
    "torch.optim.sparse_adam.SparseAdam": _ADAM,
    "torch.optim.adamax.Adamax": _ADAMAX,
    "torch.optim.rmsprop.RMSprop": _RMSPROP,
    "torch.optim.Muon": _MUON,  # PyTorch sets its __module__
    "torch.optim._muon.Muon": _MUON,
    "timm.optim.adabelief.AdaBelief": _FIRST_MOMENT,
    "timm.optim.adamp.AdamP": _ADAMW,
    "timm.optim.adamw.AdamWLegacy": _ADAMW,
    "timm.optim.lamb.Lamb": replace(_ADAMW, name="Lamb", options=("betas", "eps", "grad_averaging")),
    "timm.optim.lion.Lion": _LION,
    "timm.optim.nadam.NAdamLegacy": _ADAM,
    "timm.optim.nadamw.NAdamW": _ADAMW,
    "timm.optim.radam.RAdamLegacy": _ADAMW,
    "timm.optim.rmsprop_tf.RMSpropTF": replace(
        _RMSPROP, name="RMSpropTF", options=(*_RMSPROP.options, "lr_in_momentum", "lr")
    ),
    "timm.optim.sgdp.SGDP": replace(_SGD, first="momentum", decoupled=True),
    "timm.optim.sgdw.SGDW": replace(_SGD, decoupled=True),
    "lion_pytorch.lion_pytorch.Lion": _LION,
    "lion_pytorch.foreach.Lion": _LION,
}


def register_momentum(
    optimizer: type[Optimizer], first: str, *, second: str | None = None, options: Sequence[str] = SCALE_OPTIONS
) -> None:
    """Tell where optimizers of a class, and of subclasses that keep its `step`, hold the momentum of a weight.

    Call it before a network is attached to one. Of classes that are not known an average of gradients is kept instead.

    Args:
        optimizer: Class with a `step` of its own.
        first: Key in `optimizer.state[weight]` of the average of gradients, a tensor of the weight's shape, in the
            weight's coordinates.
        second: Key of the average of squared gradients, if the momentum to read is `first / (sqrt(second) + eps)`.
            Leave it out if the gradients in `first` are divided already.
        options: Options of parameter groups on which the size of the momentum depends. Layers whose groups differ in
            one of them are compared by averages of gradients instead.

    Raises:
        TypeError: If that is no class of optimizers.
        ValueError: If a key is no name.

    >>> import torch
    >>> class Own(torch.optim.SGD):
    ...     def step(self, closure=None): ...
    >>> register_momentum(Own, "m")
    """
    if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer)):
        raise InvalidTypeError(
            expected="a class of optimizers",
            got=repr(optimizer),
            cure="pass the class itself, a subclass of torch.optim.Optimizer",
        )
    for key in (first, *([] if second is None else [second])):
        if not isinstance(key, str) or not key:
            raise InvalidValueError(
                expected="keys of the optimizer's state",
                got=repr(key),
                cure="name the entries that hold the averages, such as 'exp_avg'",
            )
    name = _path(optimizer)
    _FAMILIES[name] = MomentumFamily(name, first, second, options=tuple(options))
    family_of.cache_clear()


@lru_cache(maxsize=256)
def family_of(kind: type) -> MomentumFamily | None:
    """Return the family of the optimizers of a class: that of the class whose `step` they run; None if unknown."""
    for base in kind.__mro__:
        if not issubclass(base, Optimizer):
            continue
        # A subclass with a step of its own, or that fills the state in another way, may do anything with the entries.
        if any(_method(base, name) is not _method(kind, name) for name in ("step", "_init_group")):
            return None
        if (family := _FAMILIES.get(_path(base))) is not None:
            return family
    return None


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _method(kind: type, name: str) -> Any:
    """Return the function that a class was written with: PyTorch wraps the step of each class with the first object."""
    method: Any = getattr(kind, name, None)
    return unwrap(method)
