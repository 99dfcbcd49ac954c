"""The contract of recipes."""

from __future__ import annotations

from lightning_sparse.testing.contract import check, expect, named
from lightning_sparse.testing.equality import deep_copy, differences, first_few
from lightning_sparse.testing.recipes import preserved_state, weight_values
from lightning_sparse.testing.small_networks import CASES, SmallRun
from lightning_sparse.topology.recipe import Recipe

PRUNE_RATES = (0.3, 1.0, 0.0, 0.5)


def budget_is_exact_at_all_times(recipe: Recipe) -> None:
    """Ask for exactly `round(density * N)` active weights, no layer above its size or below the minimum."""
    for case in CASES:
        run = SmallRun(case)
        _check_counts(run, case.min_active, f"initially in {case}")
        for number, prune_rate in enumerate(PRUNE_RATES, start=1):
            run.step()
            run.update(recipe, prune_rate)
            _check_counts(run, case.min_active, f"after update {number} at prune rate {prune_rate} in {case}")


def _check_counts(run: SmallRun, min_active: int, when: str) -> None:
    counts = {name: int(mask.sum()) for name, mask in run.network.masks.items()}
    reported = {name: layer.active for name, layer in run.network.layers.items()}
    expect(
        sum(counts.values()) == run.budget and counts == reported,
        f"{run.budget} active weights {when}, in the layers {reported}",
        f"{sum(counts.values())}, in the layers {counts}",
        "change no mask in a rule",
    )
    sizes = {name: weight.numel() for name, weight in run.weights.items()}
    outside = [name for name, size in sizes.items() if not min(min_active, size) <= counts.get(name, -1) <= size]
    expect(not outside, f"every layer between {min_active} and all weights active {when}", counts, "change no mask")


def a_prune_rate_of_zero_changes_nothing(recipe: Recipe) -> None:
    """Ask that masks and weights have the same bits after an update without pruning."""
    for case in CASES:
        run = SmallRun(case)
        run.step(2)
        _check_unchanged(run, recipe, 0.0, f"after an update at prune rate 0 in {case}")


def a_prune_rate_above_zero_changes_something_unless_static(recipe: Recipe) -> None:
    """Ask that updates of networks with room change them; and that without a pruning rule no update ever does."""
    if recipe.prune is None:
        for case in CASES:
            run = SmallRun(case)
            run.step(2)
            _check_unchanged(run, recipe, 0.5, f"after an update without a pruning rule in {case}")
        return
    for case in (case for case in CASES if case.model != "tiny" and case.density < 0.5):
        run = SmallRun(case)
        run.step(2)
        before = deep_copy(_topology(run))
        run.update(recipe, 0.5)
        expect(
            bool(differences(_topology(run), before)),
            f"other masks or weights after an update at prune rate 0.5 in {case}",
            "the same",
            "grow other weights than those that were just pruned, or state the fixed topology with prune=None",
        )


def _check_unchanged(run: SmallRun, recipe: Recipe, prune_rate: float, when: str) -> None:
    before = deep_copy(_topology(run))
    run.update(recipe, prune_rate)
    changed = differences(_topology(run), before)
    expect(not changed, f"masks and weights as they were {when}", f"others: {first_few(changed)}", "change no input")


def _topology(run: SmallRun) -> dict[str, object]:
    return {"masks": run.network.masks, "model": run.model.state_dict()}


# These are checked for every registered recipe, and for users' own.
RECIPE_PROPERTIES = named(
    budget_is_exact_at_all_times,
    a_prune_rate_of_zero_changes_nothing,
    a_prune_rate_above_zero_changes_something_unless_static,
    *weight_values.PROPERTIES,
    *preserved_state.PROPERTIES,
)


def check_recipe(recipe: Recipe) -> None:
    """Check a recipe of your own, on small networks in training, against everything that the library expects of one.

    Args:
        recipe: The three rules; check each alone first, as its messages are closer to the cause.

    Raises:
        ContractError: With every property that the recipe lacks.

    >>> from lightning_sparse.topology.recipes import SET
    >>> check_recipe(SET)
    """
    check("recipe", recipe, RECIPE_PROPERTIES)
