"""Sparse momentum with its own rules, with those of its ablation and with a user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from tiny_training import At, TinyModule, active_weights, by_index, differences, everything, fit, masks_of, watchers_of
from torch import Tensor

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.topology import LayerView
from lightning_sparse.topology.recipes import RECIPES


def first_layer(layer: LayerView) -> float:
    """Claim everything for the first layer, as good as: a redistribution rule of the user's own.

    A layer that claims exactly nothing would keep its weights.
    """
    return 1.0 if layer.name == "net.0.weight" else 1e-300


def counts(callback: SparseTrainingCallback) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks_of(callback).items()}


def train(**options: Any) -> SparseMomentumCallback:
    callback = SparseMomentumCallback(density=0.3, schedule="constant", **options)
    fit(callback)
    assert active_weights(callback) == 24
    return callback


def test_redistribution_moves_weights_between_layers_and_none_does_not() -> None:
    assert counts(train(redistribution="none")) == {"net.0.weight": 14, "net.3.weight": 10}
    assert counts(train(redistribution=None)) == {"net.0.weight": 14, "net.3.weight": 10}
    assert counts(train()) != {"net.0.weight": 14, "net.3.weight": 10}


def test_the_ablation_is_two_strings() -> None:
    variants = {
        (redistribution, growth): masks_of(train(redistribution=redistribution, growth=growth))
        for redistribution in ("momentum", "none")
        for growth in ("momentum", "random")
    }
    found = list(variants.values())
    assert all(differences(left, right) for i, left in enumerate(found) for right in found[:i])


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ({}, "sparse_momentum"),
        ({"redistribution": "none", "growth": "random"}, "set"),
        ({"pruning": "signed_magnitude", "redistribution": None, "growth": "random"}, "set_original"),
        ({"redistribution": "none", "growth": "gradient", "keep_regrown": True}, "rigl"),
    ],
    ids=str,
)
def test_three_rules_are_the_recipe_of_that_name(options: dict[str, Any], recipe: str) -> None:
    by_rules = train(**options)
    by_name = SparseTrainingCallback(recipe, density=0.3, schedule="constant")
    fit(by_name)
    assert differences(by_rules.state_dict(), by_name.state_dict()) == []


@pytest.mark.parametrize("recipe", [name for name, each in RECIPES.items() if each.grow or not each.prune])
def test_every_recipe_trains_within_its_budget(recipe: str) -> None:
    for module in (TinyModule("sgd"), TinyModule("adam")):
        callback = SparseTrainingCallback(recipe, density=0.3, every_n_steps=2)
        fit(callback, module=module)
        assert active_weights(callback) == 24
        assert len(callback.history) == 4
        assert any(record.grown for record in callback.history) == (recipe != "static")


@pytest.mark.parametrize(
    "rule",
    [by_index, "tiny_training.by_index", "tiny_training:by_index"],
    ids=["function", "path", "path with a colon"],
)
def test_growth_can_be_a_function_of_the_user(rule: str | Callable[[LayerView], Tensor]) -> None:
    callback, seen = SparseMomentumCallback(density=0.3, growth=rule, redistribution="none"), []
    fit(callback, At("on_train_batch_start", lambda *_: seen.append(masks_of(callback)["net.0.weight"].flatten())))
    grown = (seen[3] & ~seen[2]).nonzero().flatten()
    candidates = (~seen[2]).nonzero().flatten()
    assert len(grown) > 0
    assert grown.tolist() == candidates[-len(grown) :].tolist()


@pytest.mark.parametrize("rule", [by_index, "tiny_training.by_index"], ids=["function", "path"])
def test_pruning_can_be_a_function_of_the_user(rule: str | Callable[[LayerView], Tensor]) -> None:
    callback, seen = SparseMomentumCallback(density=0.3, pruning=rule, growth=lambda layer: -by_index(layer)), []
    fit(callback, At("on_train_batch_start", lambda *_: seen.append(masks_of(callback)["net.0.weight"].flatten())))
    active = seen[3].nonzero().flatten().tolist()
    pruned = callback.history[0].layers["net.0.weight"].pruned
    kept = seen[2].nonzero().flatten()[pruned:].tolist()
    assert pruned > 0
    assert set(kept) <= set(active)


def test_redistribution_can_be_a_function_of_the_user() -> None:
    callback = train(redistribution=first_layer, prune_rate=0.2)
    assert counts(callback) == {"net.0.weight": 18, "net.3.weight": 6}
    assert [record.layers["net.0.weight"].share for record in callback.history] == [1.0, 1.0]


def test_a_rule_of_the_user_may_look_at_every_signal() -> None:
    seen: list[tuple[bool, bool]] = []

    def curious(layer: LayerView) -> Tensor:
        seen.append((layer.momentum is not None, layer.gradient is not None))
        return layer.require("momentum").abs() + layer.require("gradient").abs()

    callback = SparseMomentumCallback(density=0.3, growth=curious)
    fit(callback, module=TinyModule("sgd"))
    assert set(seen) == {(True, True)}


def test_an_error_in_a_rule_of_the_user_comes_through_and_leaves_no_hooks() -> None:
    def broken(layer: LayerView) -> Tensor:
        raise ZeroDivisionError("in the user's rule")

    runs: list[Trainer] = []
    spy = At("on_fit_start", lambda run, _: runs.append(run))
    with pytest.raises(ZeroDivisionError, match="in the user's rule"):
        fit(SparseMomentumCallback(density=0.3, growth=broken), spy)
    assert watchers_of(runs[0]) == 0


def test_diverged_training_is_an_error_that_names_the_layer() -> None:
    class Diverging(TinyModule):
        def on_train_batch_end(self, *_: Any) -> None:
            self.net[3].weight.data *= float("nan") if self.global_step == 3 else 1

    with pytest.raises(ValueError, match=r"weight of layer 'net.3.weight'; got NaN.*Cure: find where training"):
        fit(SparseMomentumCallback(density=0.3), module=Diverging())


def test_momentum_growth_activates_where_the_buffer_is_largest() -> None:
    callback, checked = SparseMomentumCallback(density=0.3, redistribution="none"), []

    def before(run: Trainer, module: LightningModule) -> None:
        weight = module.get_parameter("net.0.weight")
        buffer = run.optimizers[0].state[weight].get("momentum_buffer")
        scores = None if buffer is None else buffer.abs().flatten().clone()
        checked.append((masks_of(callback)["net.0.weight"].flatten(), weight.detach().abs().flatten().clone(), scores))

    fit(At("on_train_batch_start", before), callback)
    mask, weight, buffer = checked[3]
    after, change = checked[4][0], callback.history[0].layers["net.0.weight"]
    assert (change.before, change.pruned, change.grown) == (14, 7, 7)
    kept = set(sorted(mask.nonzero().flatten().tolist(), key=lambda i: -weight[i])[:7])
    candidates = [i for i in range(48) if i not in kept]
    grown = set(sorted(candidates, key=lambda i: -buffer[i])[:7])
    assert set(after.nonzero().flatten().tolist()) == kept | grown


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    runs = []
    for seed in (1, 1, 2):
        callback = SparseMomentumCallback(density=0.3, growth="random", seed=seed)
        runs.append(everything(fit(callback), callback))
    assert differences(runs[0], runs[1]) == []
    assert differences(runs[0]["weights"], runs[2]["weights"])


def test_dense_and_excluded_layers_keep_all_their_weights() -> None:
    dense = SparseMomentumCallback(density=0.7, dense="net.3")
    fit(dense)
    assert counts(dense) == {"net.0.weight": 24, "net.3.weight": 32}
    excluded = SparseMomentumCallback(density=0.5, exclude="net.3")
    fit(excluded)
    assert counts(excluded) == {"net.0.weight": 24}
    mapped = SparseMomentumCallback(density={"net.3": 1.0, "*": 0.25}, redistribution="none")
    fit(mapped)
    assert counts(mapped) == {"net.0.weight": 12, "net.3.weight": 32}


def test_at_density_1_training_is_dense_training() -> None:
    sparse = fit(SparseMomentumCallback(density=1.0)).lightning_module
    assert differences(sparse.state_dict(), fit().lightning_module.state_dict()) == []
