"""Properties of recipes with saved states, seeds and errors."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.testing.contract import expect
from lightning_sparse.testing.equality import deep_copy, differences, first_few
from lightning_sparse.testing.randomness import seeded
from lightning_sparse.testing.small_networks import CASES, SmallRun
from lightning_sparse.topology.layer import LayerView, NonFiniteError, WeightScore, signals_of
from lightning_sparse.topology.recipe import Recipe


def continues_bit_for_bit_from_a_saved_state(recipe: Recipe) -> None:
    """Ask that a run resumed from `torch.load(weights_only=True)` equals an uninterrupted one, updates included."""
    for case in CASES:
        run = SmallRun(case)
        run.step(2)
        run.update(recipe, 0.4)
        run.step()
        resumed = SmallRun(case, seed=1)
        resumed.load(_through_a_file(run.state()))
        for continued in (run, resumed):
            continued.update(recipe, 0.4)
            continued.step(2)
            continued.update(recipe, 0.3)
        changed = differences(resumed.state(), run.state())
        expect(
            not changed,
            f"the state of an uninterrupted run in {case}",
            f"another: {first_few(changed)}",
            "keep no state in a rule, and draw from layer.generator only",
        )


def _through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def the_seed_alone_decides(recipe: Recipe) -> None:
    """Ask for the same masks from the same seed, whatever the global generators were seeded with."""
    for case in CASES:
        runs: list[dict[str, Any]] = []
        for global_seed in (1, 2):
            with seeded(global_seed):
                run = SmallRun(case, seed=7)
                for prune_rate in (0.5, 0.3):
                    run.step(2)
                    run.update(recipe, prune_rate)
            runs.append(run.state())
        changed = differences(runs[0], runs[1])
        expect(
            not changed,
            f"the same run from the same seed in {case}",
            f"others: {first_few(changed)}",
            "draw from layer.generator only",
        )


def an_error_changes_nothing(recipe: Recipe) -> None:
    """Ask that an update that fails, early or in its last layer, leaves masks, weights and random state alone."""
    for case in CASES:
        for name in SmallRun(case).weights:
            run = SmallRun(case)
            run.step(2)
            run.weights[name].reshape(-1)[-1] = torch.nan
            failed = _fails_cleanly(run, recipe, f"NaN in {name} in {case}")
            expect(failed, f"a NonFiniteError for NaN in {name} in {case}", "none", "return NaN for weights of NaN")
            if recipe.grow is not None:
                run = SmallRun(case)
                run.step(2)
                failing = replace(recipe, grow=_FailsIn(name, recipe.grow))
                _fails_cleanly(run, failing, f"a growth rule that fails in {name} in {case}")


def _fails_cleanly(run: SmallRun, recipe: Recipe, cause: str) -> bool:
    """Return whether an update fails, as the failing rule isn't called where nothing grows; ask for no change."""
    before, layers = deep_copy(run.state()), run.network.layers
    try:
        run.update(recipe, 0.5)
    except (NonFiniteError, ArithmeticError):
        changed = differences(run.state(), before)
        expect(
            not changed, f"all as it was after {cause}", f"another {first_few(changed)}", "change no input in a rule"
        )
        expect(run.network.layers == layers, f"the counts as they were after {cause}", "others", "change no mask")
        return True
    return False


class _FailsIn:
    """A growth rule that fails in one layer, after it has served others."""

    def __init__(self, name: str, rule: WeightScore) -> None:
        self.signals = signals_of(rule)
        self._name = name
        self._rule = rule

    def __call__(self, layer: LayerView) -> Tensor:
        if layer.name == self._name:
            raise ArithmeticError(f"meant to fail in {layer.name}")
        return self._rule(layer)


# Every recipe is checked for these.
PROPERTIES = (
    continues_bit_for_bit_from_a_saved_state,
    the_seed_alone_decides,
    an_error_changes_nothing,
)
