"""What the rounds are to be: checked before anything is changed, and described for a file to be compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import signature
from itertools import pairwise
from typing import Any, Literal, get_args

from torch import nn

from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.network.changes.layer_groups import Recipes
from lightning_sparse.network.seeding import check_seed
from lightning_sparse.rounds.densities import check_densities, check_reachable
from lightning_sparse.rounds.reinitialize import Reinitialize, check_resettable
from lightning_sparse.rounds.round import Round
from lightning_sparse.topology.digest import checksum
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.recipes import as_recipe
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.numbers import check_integer

Start = Literal["rewound", "reinitialized", "continued"]
RoundMasks = Literal["pruned", "random"]

# Options of `SparseNetwork` that rounds set themselves.
_SET_BY_ROUNDS = {"model", "density", "sparsity", "seed", "masks", "state", "minimum"}


@dataclass(frozen=True, eq=False)
class RoundsPlan:
    """The rounds to run.

    Attributes:
        densities: Density of each round.
        rewind: Number of optimizer steps of the first round after which weights have the values to rewind to.
        recipe: Rules that say which weights are removed between rounds.
        start: Weights that later rounds start from.
        masks: Whether the pruned masks are trained, or random ones with the same counts.
        masks_of: Rounds of an earlier run whose masks are used; None if weights are pruned.
        reinitialize: Function that draws initial weights; None calls `reset_parameters`.
        seed: Seed; None for that of PyTorch.
        options: Options of `SparseNetwork`.
    """

    densities: tuple[Density, ...]
    rewind: int
    recipe: Recipes
    start: Start
    masks: RoundMasks
    masks_of: tuple[Round, ...] | None
    reinitialize: Reinitialize | None
    seed: int | None
    options: dict[str, Any]

    @property
    def signals(self) -> frozenset[str]:
        """Names of the signals that decide what is removed."""
        if self.masks_of is not None:
            return frozenset()
        recipes = self.recipe.values() if isinstance(self.recipe, Mapping) else [self.recipe]
        return frozenset().union(*(as_recipe(recipe).signals for recipe in recipes))

    @property
    def rewinds_to_a_step(self) -> bool:
        """Whether later rounds start from the values that weights have after some steps of the first round."""
        return self.start == "rewound" and self.rewind > 0

    def first_step(self, index: int) -> int:
        """Return how many optimizer steps the first weights of a round have behind them, as its schedule counts."""
        return self.rewind if index else 0

    def described(self) -> dict[str, Any]:
        """Return what a run that resumes must have in common with the one that was interrupted, as plain values."""
        masks_of = None if self.masks_of is None else checksum([each.packed_masks for each in self.masks_of])
        return {
            "densities": [dict(each) if isinstance(each, Mapping) else each for each in self.densities],
            "rewind": self.rewind,
            "recipe": None if self.masks_of is not None else _described(self.recipe),
            "start": self.start,
            "masks": self.masks,
            "masks_of": masks_of,
            "reinitialize": _described(self.reinitialize),
            "options": {name: _described(value) for name, value in sorted(self.options.items()) if value is not None},
        }


def make_plan(
    module: nn.Module,
    densities: Sequence[Density] | None,
    masks_of: Sequence[Round] | None,
    recipe: Recipes,
    options: dict[str, Any],
    **choices: Any,
) -> RoundsPlan:
    """Return the rounds to run, checked as a whole.

    Args:
        module: Module to train.
        densities: Density of each round.
        masks_of: Rounds to take masks from, instead.
        recipe: Rules that say which weights are removed, also by name.
        options: Options of `SparseNetwork`.
        choices: The other fields of the plan.

    Raises:
        ValueError: If something is out of range, or can't be combined.
        TypeError: If something has another type, or there is no such option.
    """
    if not isinstance(module, nn.Module):
        raise InvalidTypeError(
            expected="a torch.nn.Module to train", got=repr(module)[:80], cure="pass the module itself"
        )
    _check_options(options)
    if masks_of is None:
        checked = check_densities(() if densities is None else densities)
        recipe = _resolved(recipe)
    else:
        checked = _densities_of(masks_of, densities)
        masks_of = tuple(masks_of)
    plan = RoundsPlan(checked, recipe=recipe, masks_of=masks_of, options=options, **_checked(**choices))
    _check_combination(plan)
    if masks_of is None:
        check_reachable(module, checked, recipe, options)
    if plan.start == "reinitialized" and plan.reinitialize is None:
        check_resettable(module)
    return plan


def _check_options(options: Mapping[str, Any]) -> None:
    known = [name for name in signature(SparseNetwork).parameters if name not in _SET_BY_ROUNDS]
    if unknown := [name for name in options if name not in known]:
        raise InvalidTypeError(
            expected=f"options of run_rounds, or of SparseNetwork among {', '.join(known)}",
            got=f"an unexpected keyword argument {', '.join(map(repr, unknown))}",
            cure="drop it",
        )


def _resolved(recipe: Recipes) -> Recipes:
    if isinstance(recipe, Mapping):
        return {pattern: as_recipe(each) for pattern, each in recipe.items()}
    return as_recipe(recipe)


def _densities_of(rounds: object, densities: object) -> tuple[Density, ...]:
    if densities is not None:
        raise InvalidValueError(
            expected="densities or masks_of, which has densities of its own",
            got="both",
            cure="drop one of them",
        )
    if not isinstance(rounds, Sequence) or not all(isinstance(each, Round) for each in rounds):
        raise InvalidTypeError(
            expected="a list of rounds to take masks from",
            got=repr(rounds)[:80],
            cure="pass what run_rounds returned, or a part of it",
        )
    if not rounds:
        raise InvalidValueError(expected="at least one round to take masks from", got="none", cure="pass one")
    if any(each.shapes != rounds[0].shapes for each in rounds):
        raise InvalidValueError(
            expected="rounds of one module to take masks from", got="masks of several", cure="pass those of one run"
        )
    return tuple(each.density for each in rounds)


def _checked(rewind: object, start: object, masks: object, reinitialize: object, seed: int | None) -> dict[str, Any]:
    steps = check_integer(
        rewind,
        0,
        expected="a number of optimizer steps to rewind to, an integer >= 0",
        cure="0 rewinds to the values before training",
    )
    for name, value, known in (("start", start, get_args(Start)), ("masks", masks, get_args(RoundMasks))):
        if value not in known:
            raise InvalidValueError(
                expected=f"{name} from {', '.join(map(repr, known))}", got=repr(value), cure="name one of these"
            )
    if reinitialize is not None and not callable(reinitialize):
        raise InvalidTypeError(
            expected="a function of the module that draws its initial weights, as reinitialize",
            got=repr(reinitialize),
            cure="None calls reset_parameters of every module in it",
        )
    choices = {"start": start, "masks": masks, "reinitialize": reinitialize}
    return {"rewind": steps, **choices, "seed": check_seed(seed)}


def _check_combination(plan: RoundsPlan) -> None:
    if plan.start == "reinitialized" and plan.rewind:
        raise InvalidValueError(
            expected="either a step to rewind to or freshly drawn weights",
            got=f"rewind={plan.rewind} and start='reinitialized'",
            cure="rewind=0, or start='rewound'",
        )
    if plan.reinitialize is not None and plan.start != "reinitialized":
        raise InvalidValueError(
            expected="start='reinitialized' where there is a function that draws initial weights",
            got=f"start={plan.start!r}",
            cure="drop reinitialize, or change start",
        )
    if plan.start == "continued" and plan.masks == "random":
        raise InvalidValueError(
            expected="pruned masks where training continues: weights of other masks were zero until then",
            got="start='continued' and masks='random'",
            cure="start='rewound' or 'reinitialized' for random masks",
        )
    if plan.start == "continued" and plan.masks_of is not None and not _are_nested(plan.masks_of):
        raise InvalidValueError(
            expected="masks that only lose weights where training continues: others were zero until then",
            got="masks_of whose masks gain some",
            cure="start='rewound' or 'reinitialized' for such masks",
        )


def _are_nested(rounds: Sequence[Round]) -> bool:
    """Tell whether each round's masks only lack some of the weights of those before."""
    return not any(
        bool((packed & ~before.packed_masks[name]).any())
        for before, after in pairwise(rounds)
        for name, packed in after.packed_masks.items()
    )


def _described(value: object) -> Any:
    """Return a value as plain values that tell it from others: functions and types by their import paths."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Recipe):
        return {each.name: _described(getattr(value, each.name)) for each in fields(value) if each.init}
    if isinstance(value, Mapping):
        return {str(_described(key)): _described(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(entry) for entry in value]
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return type(value).__qualname__
