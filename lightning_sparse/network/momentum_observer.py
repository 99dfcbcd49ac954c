"""Whose momentum topology updates read: the optimizers' own, if all of it is on one scale, or averages kept here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_sparse.network.dtensor import to_local
from lightning_sparse.network.momentum_families import MomentumFamily, family_of
from lightning_sparse.network.optimizer_steps import OptimizerStepObserver

# Options of a parameter group that say that its weight decay is not part of the gradients that are averaged.
_DECOUPLED = ("decoupled_weight_decay", "decoupled_decay")


class Finding(NamedTuple):
    """What an optimizer has for a weight."""

    optimizer: Optimizer
    # What another weight's momentum must share to be compared; None if there is nothing to read.
    scale: tuple[Any, ...] | None
    # Why there is nothing to read, as a clause about the optimizer; "" if there is.
    why: str = ""
    # What is read, from the entries of its state.
    formula: str = ""
    # How to read it, once the state is filled.
    read: Callable[[], Tensor | None] | None = None


class MomentumObserver(OptimizerStepObserver):
    """Decides for all weights at once, as updates compare layers: momentum is read if all of it has one definition.

    It is decided when an optimizer is attached, from classes and options, and again after the first step of each, from
    what its state holds then. Where momentum would be on different scales (0.9 beside 0.5, Muon beside AdamW, a
    parameter group without any), or some of it is not known, averages of gradients are kept for all weights.

    Args:
        parameters: The weights by name.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        super().__init__(parameters)
        self._decide_anew()

    def _decide_anew(self) -> None:
        # The optimizer that stepped each weight last, itself and not through one that it wraps.
        self._sources: dict[str, Optimizer] = {}
        # The weights that each of these stepped last, by its id, which no other one gets while it is a source.
        self._settled: dict[int, Sequence[str]] = {}
        self._is_mixed = False
        self._averages_all: bool | None = None

    def attach(self, optimizer: Optimizer) -> None:
        """Follow an optimizer; see the base class."""
        super().attach(optimizer)
        self._decide_anew()

    def detach(self) -> None:
        """Stop following; the number of steps stays."""
        super().detach()
        self._decide_anew()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: it follows no optimizer."""
        undecided = {"_sources": {}, "_settled": {}, "_is_mixed": False, "_averages_all": None}
        return {**super().__getstate__(), **undecided}

    @property
    def averages_all(self) -> bool:
        """Whether averages of gradients take the place of every optimizer's momentum."""
        if self._averages_all is None:
            findings = self._findings()
            # Once such steps were taken it stays: an average that is kept now and then is none.
            self._is_mixed |= _differ(findings[name] for name in self._sources)
            self._averages_all = self._is_mixed or _differ(findings.values())
        return self._averages_all

    def _note_step(self, optimizer: Optimizer, trained: Sequence[str]) -> bool:
        """Take note of who stepped weights with a gradient; return whether averages are kept.

        This runs in every step, and does nothing where the weights are those of the step before.
        """
        if trained and self._settled.get(id(optimizer)) != trained:
            self._settle(optimizer, trained)
        return self.averages_all if self._averages_all is None else self._averages_all

    def _settle(self, optimizer: Optimizer, trained: Sequence[str]) -> None:
        moved = {name for name in trained if self._sources.get(name) is not optimizer}
        if moved:
            expected = self.averages_all
            self._settled = {who: names for who, names in self._settled.items() if moved.isdisjoint(names)}
            self._sources |= dict.fromkeys(moved, optimizer)
            self._averages_all = None
            if self.averages_all and not expected:
                self._warn()
        self._settled[id(optimizer)] = trained

    def _warn(self) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and torch.distributed.get_rank() > 0:
            return
        found = {
            f"{type(each.optimizer).__name__}: {each.why or 'another scale'}" for each in self._findings().values()
        }
        warnings.warn(
            f"Expected the momentum of masked weights in the state of their optimizers, on one scale; got "
            f"{'; '.join(sorted(found))}. From now on topology updates compare averages of gradients. Cure: none is "
            "needed, or give these weights one optimizer with one momentum.",
            stacklevel=2,
        )

    def _findings(self) -> dict[str, Finding]:
        """Return what there is for each weight that some optimizer has."""
        found = {name: self._finding(name) for name in self._parameters}
        return {name: each for name, each in found.items() if each is not None}

    def _finding(self, name: str) -> Finding | None:
        """Return what the optimizer of a weight has for it; of several the one that stepped last, or is read."""
        parameter, source = self._parameters[name], self._sources.get(name)
        if source is not None:
            return examine(source, parameter, has_stepped=True)
        candidates = [inner for outer in self.optimizers_of(name) for inner in _unwrapped(outer, parameter)]
        found = [examine(each, parameter, has_stepped=False) for each in candidates]
        # Before the first step here: one with a saved state comes before one that is only known to be readable.
        found.sort(key=lambda each: (each.read is None, each.scale is None))
        return found[0] if found else None

    def _readable_candidate(self, name: str) -> Optimizer | None:
        """Return the optimizer whose state has the momentum of a weight that none has stepped here."""
        finding = self._finding(name)
        return None if finding is None or finding.read is None else finding.optimizer


def _differ(findings: Iterable[Finding]) -> bool:
    scales = {finding.scale for finding in findings}
    return len(scales) > 1 or None in scales


def examine(optimizer: Optimizer, parameter: Parameter, *, has_stepped: bool) -> Finding:
    """Find out what an optimizer has for a weight.

    Args:
        optimizer: One of the optimizers that may step it.
        parameter: The weight.
        has_stepped: Whether it did, with a gradient, so that its state must have been filled.
    """
    family = family_of(type(optimizer))  # type: ignore[arg-type]  # classes can be hashed
    if family is None:
        return Finding(optimizer, None, "it is not known where it keeps it")
    group = group_of(optimizer, parameter)
    if why := _why_unscaled(family, group):
        return Finding(optimizer, None, why)
    scale = _scale(family, group)
    state = optimizer.state.get(parameter, {})
    if not isinstance(state, Mapping):
        return Finding(optimizer, None, f"its state is a {type(state).__name__}")
    if state.get(family.first) is None and not has_stepped:
        return Finding(optimizer, scale, formula=family.formula)
    problem = why_unreadable(family, state, parameter)
    if problem is not None:
        return Finding(optimizer, None, f"its state has {problem}")
    return Finding(optimizer, scale, formula=family.formula, read=partial(read_momentum, optimizer, parameter))


def _why_unscaled(family: MomentumFamily, group: Mapping[str, Any]) -> str:
    """Return why a group's options allow no reading, as a clause about the optimizer; "" if they do."""
    if family.required is not None and not _number(group.get(family.required)):
        return f"it has none with {family.required}={group.get(family.required)!r}"
    if len(family.entries) > 1 and _number(group.get("eps", 0.0)) is None:
        return f"its eps is {group.get('eps')!r}"
    return ""


def _scale(family: MomentumFamily, group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what the momentum of two weights must have in common to be compared."""
    skipped = {"weight_decay"} if family.decoupled or any(map(group.get, _DECOUPLED)) else set()
    return (family.name, *(0.0 if name in skipped else _comparable(group.get(name)) for name in family.options))


def _number(value: Any) -> float | None:
    """Return an option as a number, which may be a tensor with one element; None for anything else."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, Real) else None


def _comparable(value: Any) -> Any:
    """Return the value of an option, in a form that equal values share."""
    return tuple(map(_number, value)) if isinstance(value, tuple | list) else _number(value)


def why_unreadable(family: MomentumFamily, state: Mapping[str, Any], parameter: Parameter) -> str | None:
    """Return what is wrong with the entries of a weight's state; None if they are its momentum.

    Each has to be an ordinary tensor of real numbers, in at least 16 bits, of the weight's shape.
    """
    shape = to_local(parameter).shape
    for entry in family.entries:
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


def read_momentum(optimizer: Optimizer, parameter: Parameter) -> Tensor | None:
    """Return the momentum that the optimizer's state holds for a parameter, or None if it holds none that is known.

    Of a sharded parameter it is the local part. `momentum_families` has what is read of which optimizers.
    """
    family = family_of(type(optimizer))  # type: ignore[arg-type]  # classes can be hashed
    state = optimizer.state.get(parameter, {})
    if family is None or not isinstance(state, Mapping) or why_unreadable(family, state, parameter):
        return None
    first, *scales = (to_local(state[entry]).detach() for entry in family.entries)
    if not scales:
        return first
    scale = scales[0] if family.second is None else scales[0].sqrt()
    return first.div(scale + group_of(optimizer, parameter).get("eps", 1e-8))


def group_of(optimizer: Optimizer, parameter: Parameter) -> Mapping[str, Any]:
    """Return the parameter group of a weight; an empty one if it has left the optimizer."""
    groups = (group for group in optimizer.param_groups if any(each is parameter for each in group["params"]))
    return next(groups, {})


def _unwrapped(optimizer: Optimizer, parameter: Parameter, outer: frozenset[int] = frozenset()) -> Iterator[Optimizer]:
    """Return an optimizer after those that it holds on to and that have the weight, too: it may let them step."""
    outer |= {id(optimizer)}
    for value in vars(optimizer).values():
        for inner in value if isinstance(value, list | tuple) else [value]:
            if isinstance(inner, Optimizer) and id(inner) not in outer and group_of(inner, parameter):
                yield from _unwrapped(inner, parameter, outer)
    yield optimizer
