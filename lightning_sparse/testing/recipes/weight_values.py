"""What recipes must do to the values of weights."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sparse.testing.contract import expect
from lightning_sparse.testing.equality import copied, differences, listed, same_bits
from lightning_sparse.testing.small_networks import CASES, SmallRun
from lightning_sparse.topology.plan import LayerChange
from lightning_sparse.topology.rewire import Recipe

_CURE = "change no input in a rule, and keep no reference to one"


def survivors_keep_their_values(recipe: Recipe) -> None:
    """Ask that what an update doesn't prune keeps its bits, and so does all that can't be masked."""
    for case in CASES:
        run = SmallRun(case)
        for prune_rate in (0.3, 0.5):
            run.step(2)
            weights, model, masks = copied(run.weights), copied(run.model.state_dict()), run.network.masks
            changes = run.update(recipe, prune_rate)
            for name, now in run.weights.items():
                problem = _survival(weights[name], now, masks[name], run.network.masks[name], changes[name], recipe)
                expect(not problem, f"survivors in {name} with the bits they had, in {case}", problem, _CURE)
            others = [
                place
                for place in differences(run.model.state_dict(), model)
                if place.removeprefix("/") not in run.weights
            ]
            expect(not others, f"biases and norms as they were, in {case}", f"others: {listed(others)}", _CURE)


def _survival(before: Tensor, now: Tensor, old: Tensor, new: Tensor, change: LayerChange, recipe: Recipe) -> str:
    """Return what is wrong with the weights that are active before and after, and nothing if nothing is."""
    stayed = old & new
    kept = stayed & (now == before)
    if not same_bits(now[kept], before[kept]):
        return "other signs of zero"
    if recipe.keep_regrown:
        return "" if torch.equal(kept, stayed) else f"{int((stayed & ~kept).sum())} with another value"
    zeroed = stayed & ~kept
    if bool(now[zeroed].any()):
        return f"{int(torch.count_nonzero(now[zeroed]))} with another value"
    # Those that were pruned and grown at once start over; only the pruned can.
    lost = change.pruned - int((old & ~new).sum())
    return "" if int(zeroed.sum()) <= lost else f"{int(zeroed.sum())} set to zero where {lost} came back at most"


def grown_weights_start_at_zero(recipe: Recipe) -> None:
    """Ask that grown weights are zero, those that come back in the same update too unless `keep_regrown` says not."""
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
    """Ask for exact zeros outside of the masks after every step and update: momentum and decay revive nothing."""
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
    """Ask that active weights of value zero stay active: training may put them there, and grown ones start there."""
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


# Whatever is added here is asked of every recipe.
PROPERTIES = (
    survivors_keep_their_values,
    grown_weights_start_at_zero,
    inactive_weights_stay_zero,
    masks_are_not_read_off_the_weights,
)
