"""Property of rules with `shardable=True`: they work on weights that are split over processes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.testing.contract import expect
from lightning_sparse.testing.evidence import evidence_of, layer
from lightning_sparse.topology.layer import LayerClaim, LayerView, WeightScore, is_shardable
from lightning_sparse.topology.sharding import Shard

# A part that makes more reductions than this is considered never to end.
_MOST_REDUCTIONS = 100


class _PauseError(Exception):
    """A part has to wait for the others."""


@dataclass
class _Reductions:
    """Reductions over the parts of a weight that are asked one after the other instead of side by side.

    Each part is asked again and again, from the start: it gets the results that are known, and stops at the next one.
    """

    known: list[Tensor]
    pending: list[tuple[str, Tensor]] = field(default_factory=list)
    made: int = 0

    def sum(self, values: Tensor) -> Tensor:
        return self._reduce("sum", values)

    def maximum(self, values: Tensor) -> Tensor:
        return self._reduce("amax", values)

    def _reduce(self, operation: str, values: Tensor) -> Tensor:
        self.made += 1
        if self.made > len(self.known):
            self.pending.append((operation, values.clone()))
            raise _PauseError
        return self.known[self.made - 1].clone()


def works_on_parts_if_it_says_so(rule: WeightScore | LayerClaim | None) -> None:
    """Ask a rule with `shardable=True` for the same answers on the two parts of a weight as on the whole weight."""
    if rule is None or not is_shardable(rule):
        return
    for shape, active in (((5, 3), 7), ((4, 2, 2, 2), 9), ((1, 6), 2)):
        view = layer(f"{shape}, {active} active, split in two", shape, active, seed=sum(shape))
        whole = rule(replace(view, generator=torch.Generator().manual_seed(1)))
        answers = _ask_parts(rule, view)
        expect(
            _agree(torch.as_tensor(whole), answers, view),
            f"the same answers for the layer {view.name} as for the whole",
            f"{answers} instead of {whole}",
            "use layer.size, layer.total() and layer.noise() for what depends on the whole weight, or leave out "
            "shardable=True",
        )


def _agree(whole: Tensor, answers: list[Tensor], view: LayerView) -> bool:
    if whole.shape == view.weight.shape:  # scores, of which each part has its own
        return all(each.shape[1:] == whole.shape[1:] for each in answers) and torch.equal(torch.cat(answers), whole)
    return all(each.shape == whole.shape and torch.allclose(each, whole, rtol=1e-6) for each in answers)


def _part(view: LayerView, part: int, reductions: _Reductions) -> LayerView:
    rows = (view.weight.shape[0] + 1) // 2
    begin, end = (0, rows) if part == 0 else (rows, view.weight.shape[0])
    offset = (begin, *[0] * (view.weight.dim() - 1))
    shard = Shard(tuple(view.weight.shape), offset, reductions.sum, reductions.maximum)
    cut: dict[str, Any] = {kind: values[begin:end] for kind, values in evidence_of(view).items() if values is not None}
    return replace(view, generator=torch.Generator().manual_seed(1), shard=shard, **cut)


def _ask_parts(rule: WeightScore | LayerClaim, view: LayerView) -> list[Tensor]:
    known: list[Tensor] = []
    for _ in range(_MOST_REDUCTIONS):
        answers, given = [], []
        for part in (0, 1):
            reductions = _Reductions(known)
            try:
                answers.append(torch.as_tensor(rule(_part(view, part, reductions))))
            except _PauseError:
                given += reductions.pending
        if len(answers) == 2:
            return answers
        expect(
            len({operation for operation, _ in given}) == 1 and len(given) == 2,
            "equally many reductions on all parts of a weight",
            "one more on one of two parts",
            "call layer.total(), noise() and require() whatever the values of the part are",
        )
        known.append(getattr(torch.stack([values for _, values in given]), given[0][0])(0))
    raise AssertionError(f"Expected fewer than {_MOST_REDUCTIONS} reductions. Cure: leave out shardable=True.")
