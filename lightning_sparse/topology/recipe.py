"""A method as a composition of rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lightning_sparse.topology.layer import LayerClaim, LayerCount, WeightScore, is_shardable, signals_of
from lightning_sparse.topology.registry import takes_one_argument
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.representation import ShowsFields

Ranking = Literal["layer", "network"]


@dataclass(frozen=True, repr=False)
class Recipe(ShowsFields):
    """A published method: what to keep, how to share the freed budget out, what to grow.

    Attributes:
        prune: Weight score; of each layer's active weights the lowest are pruned. None prunes nothing.
        redistribute: Layer claim; None regrows in each layer what it lost.
        grow: Weight score; of each layer's inactive weights, just-pruned ones included, the highest are grown. None
            grows nothing: what is pruned stays so, and the network has fewer active weights afterwards.
        keep_regrown: Whether a weight that is pruned and grown in the same update keeps its value (RigL, and the
            original authors' code of sparse momentum) or starts at zero like every grown weight (the default, and
            the text of the sparse momentum paper).
        count: Rule that says how many weights each layer loses; None leaves that to the prune rate.
        ranking: Whether the lowest weights are found in each layer ("layer"), or in all of them together ("network"):
            then a layer loses the more, the more of the network's lowest scores it has.
        signals: Names of the signals that the rules may ask for.
        unshardable: Rules that don't work on parts of weights that are split over processes.
    """

    prune: WeightScore | None
    redistribute: LayerClaim | None = None
    grow: WeightScore | None = None
    keep_regrown: bool = False
    count: LayerCount | None = None
    ranking: Ranking = "layer"
    signals: frozenset[str] = field(init=False, repr=False, compare=False)
    unshardable: tuple[WeightScore | LayerClaim | LayerCount, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("prune", "redistribute", "grow", "count"):
            rule = getattr(self, name)
            if rule is not None and not takes_one_argument(rule):
                raise InvalidTypeError(
                    expected=f"a function of one LayerView, or None, as {name}",
                    got=repr(rule),
                    cure="pass the function itself; a callback's arguments take names",
                )
        if not isinstance(self.keep_regrown, (bool, np.bool_)):
            raise InvalidTypeError(
                expected="keep_regrown to be True or False",
                got=repr(self.keep_regrown),
                cure="the default is False",
            )
        self._check_combination()

        rules = [rule for rule in (self.prune, self.redistribute, self.grow, self.count) if rule is not None]
        # A frozen dataclass.
        object.__setattr__(self, "signals", frozenset().union(*map(signals_of, rules)))
        object.__setattr__(self, "unshardable", tuple(rule for rule in rules if not is_shardable(rule)))

    def _check_combination(self) -> None:
        if self.prune is None and self.grow is not None:
            raise InvalidValueError(
                expected="both a pruning and a growth rule, a pruning rule alone, or neither (a fixed topology)",
                got=f"prune=None, grow={self.grow!r}",
                cure="name the missing rule",
            )
        for name, needed in (("redistribute", "grow"), ("count", "prune")):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise InvalidValueError(
                    expected=f"a rule to {needed} by, for {name} to make sense",
                    got=f"{name}={getattr(self, name)!r} and {needed}=None",
                    cure=f"name that rule, or leave out {name}",
                )
        if self.ranking not in ("layer", "network"):
            raise InvalidValueError(
                expected="a ranking 'layer' or 'network'",
                got=repr(self.ranking),
                cure="'network' ranks all layers together",
            )
        if self.ranking == "network" and self.count is not None:
            raise InvalidValueError(
                expected="either a count of each layer or a ranking of all layers together",
                got=f"count={self.count!r} and ranking='network'",
                cure="drop one of the two",
            )

    @property
    def shardable(self) -> bool:
        """Whether its rules work on parts of weights that are split over processes."""
        return not self.unshardable
