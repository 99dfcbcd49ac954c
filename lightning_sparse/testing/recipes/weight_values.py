"""Properties of recipes concerning the values of weights."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sparse.testing.contract import expect
from lightning_sparse.testing.equality import deep_copy, differences, first_few, same_bits
from lightning_sparse.testing.small_networks import CASES, SmallRun
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.recipe import Recipe

_CURE = "change no input in a rule, and keep no reference to one"


def survivors_keep_their_values(recipe: Recipe) -> None:
    """Ask that survivors of an update keep their bits, and so do parameters that can't be masked."""
    for case in CASES:
        run = SmallRun(case)
        for prune_rate in (0.3, 0.5):
            run.step(2)
            weights, model, masks = deep_copy(run.weights), deep_copy(run.model.state_dict()), run.network.masks
            changes = run.update(recipe, prune_rate)
            for name, now in run.weights.items():
                problem = _survival(weights[name], now, masks[name], run.network.masks[name], changes[name], recipe)
                expect(not problem, f"survivors in {name} with the bits they had, in {case}", problem, _CURE)
            others = [
                place
                for place in differences(run.model.state_dict(), model)
                if place.removeprefix("/") not in run.weights
            ]
            expect(not others, f"biases and norms as they were, in {case}", f"others: {first_few(others)}", _CURE)


def _survival(before: Tensor, now: Tensor, old: Tensor, new: Tensor, change: LayerChange, recipe: Recipe) -> str:
    """Return the error in the weights that are active before and after; an empty text if there is none."""
    stayed = old & new
    kept = stayed & (now == before)
    if not same_bits(now[kept], before[kept]):
        return "other signs of zero"
    if recipe.keep_regrown:
        return "" if torch.equal(kept, stayed) else f"{int((stayed & ~kept).sum())} with another value"
    zeroed = stayed & ~kept
    if bool(now[zeroed].any()):
        return f"{int(torch.count_nonzero(now[zeroed]))} with another value"
    # Weights that were pruned and grown in one update start at zero; there can't be more than were pruned.
    lost = change.pruned - int((old & ~new).sum())
    return "" if int(zeroed.sum()) <= lost else f"{int(zeroed.sum())} set to zero where {lost} came back at most"


def grown_weights_start_at_zero(recipe: Recipe) -> None:
    """Ask that grown weights are zero, including those pruned in the same update unless `keep_regrown` is True."""
    for case in CASES:
        run = SmallRun(case)
        for prune_rate in (0.3, 1.0):
            run.step(2)
            masks = run.network.masks
            changes = run.update(recipe, prune_rate)
            for name, now in run.weights.items():
                new = run.network.masks[name] & ~masks[name]
                nonzero = int(torch.count_nonzero(now[new]))
                expect(not nonzero, f"zeros where {name} has grown in {case}", f"{nonzero} other values", _CURE)
                survivors, most = int(torch.count_nonzero(now)), changes[name].before - changes[name].pruned
                expect(
                    recipe.keep_regrown or survivors <= most,
                    f"values in {name} at no more than the {most} survivors, as keep_regrown=False says, in {case}",
                    f"{survivors} values",
                    _CURE,
                )


def inactive_weights_stay_zero(recipe: Recipe) -> None:
    """Ask for exact zeros outside of the masks after every step and update: momentum and decay don't revive any."""
    for case in CASES:
        run = SmallRun(case)
        for number in range(1, 10):
            run.step()
            _check_zeros(run, f"after step {number} in {case}")
            if number % 3 == 0:
                run.update(recipe, 0.4)
                _check_zeros(run, f"after the update after step {number} in {case}")


def _check_zeros(run: SmallRun, when: str) -> None:
    masks = run.network.masks
    stray = {name: int(torch.count_nonzero(weight[~masks[name]])) for name, weight in run.weights.items()}
    expect(not any(stray.values()), f"zeros at all inactive weights {when}", f"other values: {stray}", _CURE)


def masks_are_not_read_off_the_weights(recipe: Recipe) -> None:
    """Ask that active weights of value zero stay active: training may take them there, and grown ones start there."""
    for case in CASES:
        run = SmallRun(case)
        run.step(2)
        for weight in run.weights.values():
            weight.zero_()
        _check_masks_of_zeros(run, recipe, 0.0, f"with all weights at zero in {case}")
        _check_masks_of_zeros(run, recipe, 0.3, f"after an update of weights at zero in {case}")


def _check_masks_of_zeros(run: SmallRun, recipe: Recipe, prune_rate: float, when: str) -> None:
    before = run.network.masks
    changes = run.update(recipe, prune_rate)
    after = run.network.masks
    active = sum(int(mask.sum()) for mask in after.values())
    expect(active == run.budget, f"{run.budget} active weights {when}", active, "take what is active from layer.mask")
    lost = [name for name, mask in before.items() if int((mask & ~after[name]).sum()) > changes[name].pruned]
    expect(not lost, f"only pruned weights to become inactive {when}", f"more in {lost}", "use layer.mask")


# Every recipe is checked for these.
PROPERTIES = (
    survivors_keep_their_values,
    grown_weights_start_at_zero,
    inactive_weights_stay_zero,
    masks_are_not_read_off_the_weights,
)
