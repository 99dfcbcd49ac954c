"""Where optimizers keep the momentum of a weight: a table of families, by the class whose `step` an optimizer runs.

The name of a state entry doesn't say what is in it: an `exp_avg` may hold gradients that are normalized already, other
coordinates than those of the weight, or no momentum at all. So an optimizer is read only if its class is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import unwrap
from numbers import Real
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_sparse.network.dtensor import to_local
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

# Options on which the size of a momentum depends, in the families that users add.
SCALE_OPTIONS = ("momentum", "dampening", "betas", "beta1", "beta2", "alpha", "eps", "weight_decay")


# Options that say so of the weight decay of a group.
_DECOUPLED = ("decoupled_weight_decay", "decoupled_decay")


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

    @property
    def formula(self) -> str:
        """What is read, from the entries of the state."""
        if self.second is not None:
            return f"{self.first} / (sqrt({self.second}) + eps)"
        return self.first if self.largest is None else f"{self.first} / ({self.largest} + eps)"

    @property
    def entries(self) -> list[str]:
        """Entries of the state that are read."""
        return [entry for entry in (self.first, self.second, self.largest) if entry is not None]

    def scale(self, group: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Return what two weights must have in common to be compared; None where a group's options allow no reading.

        Args:
            group: Parameter group of an optimizer of this family.
        """
        if self.why_unscaled(group):
            return None
        skipped = {"weight_decay"} if self.decoupled or any(map(group.get, _DECOUPLED)) else set()
        return (self.name, *(0.0 if name in skipped else _comparable(group.get(name)) for name in self.options))

    def why_unscaled(self, group: Mapping[str, Any]) -> str:
        """Return why a group's options allow no reading, as a clause about the optimizer; "" if they do."""
        if self.required is not None and not _number(group.get(self.required)):
            return f"it has none with {self.required}={group.get(self.required)!r}"
        if len(self.entries) > 1 and _number(group.get("eps", 0.0)) is None:
            return f"its eps is {group.get('eps')!r}"
        return ""

    def read(self, state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
        """Return the momentum from entries that `why_unreadable` has nothing against; of a split weight, our part."""
        first, *scales = (to_local(state[entry]).detach() for entry in self.entries)
        if not scales:
            return first
        scale = scales[0] if self.second is None else scales[0].sqrt()
        return first.div(scale + group.get("eps", 1e-8))

    def why_unreadable(self, state: Mapping[str, Any], parameter: Parameter) -> str | None:
        """Return what is wrong with the entries of a weight's state; None if they are its momentum.

        Each has to be an ordinary tensor of real numbers, in at least 16 bits, of the weight's shape.
        """
        shape = to_local(parameter).shape
        for entry in self.entries:
            value = state.get(entry)
            if value is None:
                return f"no {entry}"
            if not isinstance(value, Tensor):
                return f"{entry} as a {type(value).__name__}"
            local = to_local(value)
            if type(local) not in (Tensor, Parameter):
                return f"{entry} as a {type(local).__name__}"
            if not local.is_floating_point() or local.element_size() < 2:
                return f"{entry} in {str(local.dtype).removeprefix('torch.')}"
            if local.shape != shape:
                return f"{entry} of shape {tuple(local.shape)}"
        return None


def _number(value: Any) -> float | None:
    """Return an option as a number, which may be a tensor with one element; None for anything else."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, Real) else None


def _comparable(value: Any) -> Any:
    """Return the value of an option, in a form that equal values share."""
    return tuple(map(_number, value)) if isinstance(value, tuple | list) else _number(value)


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


def family_of(optimizer: Optimizer) -> MomentumFamily | None:
    """Return the family of an optimizer: that of the class whose `step` it runs; None if it isn't known."""
    kind = type(optimizer)
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
