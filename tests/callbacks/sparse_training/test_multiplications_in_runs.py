"""Redistribution per multiplication in Lightning: learned in the first step, resumed exactly, compiled or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import (
    At,
    Batch,
    TinyModule,
    active_weights,
    differences,
    everything,
    fit,
    saved,
    saving_everywhere,
    stray_weights,
)
from torch import Tensor, nn
from torch._dynamo.utils import counters

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.topology import LayerView, Recipe
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.layer import uses
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.redistribution import momentum_per_multiplication

RULES = ["momentum_per_multiplication", "momentum_per_root_multiplication"]
DENSITY, BUDGET = 0.3, 24

pytestmark = pytest.mark.filterwarnings(
    "ignore:Be aware that when using .ckpt_path.*:UserWarning",
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
)


class Tokens(TinyModule):
    """Applies its first layer to several tokens of each example, in other numbers from batch to batch."""

    def tokens(self, batch: Batch) -> int:
        return 2 + int(batch[1].sum()) % 3

    def loss(self, batch: Batch) -> Tensor:
        tokens = batch[0].unsqueeze(1).expand(-1, self.tokens(batch), -1)
        return nn.functional.cross_entropy(self.net[1:](self.net[0](tokens).mean(1)), batch[1])


class NineTokens(Tokens):
    """Applies it to nine."""

    def tokens(self, batch: Batch) -> int:
        return 9


def hooks(module: nn.Module) -> int:
    return sum(len(inner._forward_hooks) for inner in module.modules())


def train(redistribution: Any, module: nn.Module | None = None, **options: Any) -> SparseMomentumCallback:
    callback = SparseMomentumCallback(density=DENSITY, redistribution=redistribution, every_n_steps=2, seed=1)
    fit(callback, module=NineTokens() if module is None else module, **options)  # type: ignore[arg-type]  # compiled
    return callback


def first_layer(callback: SparseTrainingCallback) -> int:
    assert callback.network is not None
    return callback.network.layers["net.0.weight"].active


def test_the_layer_that_costs_more_gets_fewer_weights_than_by_momentum_alone() -> None:
    plain, cheap, between = (train(rule) for rule in ("momentum", *RULES))
    assert active_weights(plain) == active_weights(cheap) == active_weights(between) == BUDGET
    assert first_layer(cheap) < first_layer(between) < first_layer(plain)
    assert cheap.network is not None
    assert cheap.network.multiplications == {"net.0.weight": 9.0, "net.3.weight": 1.0}


def test_layers_that_cost_the_same_are_treated_as_by_momentum_alone() -> None:
    histories = [[record.to_dict() for record in train(rule, TinyModule()).history] for rule in ("momentum", *RULES)]
    assert histories[0] == histories[1] == histories[2]


@pytest.mark.parametrize(("rule", "first"), [(RULES[0], 2), ("momentum", 0)])
def test_hooks_are_gone_after_the_first_batch_and_other_rules_need_none(rule: str, first: int) -> None:
    seen: list[int] = []
    moments = ("on_train_batch_start", "on_train_batch_end")
    looks = [At(moment, lambda _, module: seen.append(hooks(module))) for moment in moments]
    callback = SparseMomentumCallback(density=DENSITY, redistribution=rule)
    fit(callback, *looks, module=NineTokens(), max_epochs=2)
    assert seen == [first] + [0] * 11
    assert ("multiplications" in callback.state_dict()["network"]) == bool(first)


@pytest.mark.parametrize("rule", RULES)
def test_a_run_resumes_exactly_from_any_checkpoint_though_batches_cost_differently(tmp_path: Path, rule: str) -> None:
    def sparse() -> SparseMomentumCallback:
        return SparseMomentumCallback(density=DENSITY, redistribution=rule)

    callback = sparse()
    expected = everything(fit(callback, *saving_everywhere(tmp_path), module=Tokens()), callback)
    assert sum(record.grown for record in callback.history) > 0
    wrong = {}
    for moment, path in saved(tmp_path).items():
        torch.manual_seed(99)
        resumed = sparse()
        rerun = fit(resumed, module=Tokens(), ckpt_path=path)
        wrong[moment] = differences(everything(rerun, resumed), expected)
    assert {moment: places for moment, places in wrong.items() if places} == {}


def test_a_fit_that_ends_before_its_first_step_leaves_no_hook() -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    module = NineTokens()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(SparseMomentumCallback(redistribution=RULES[0]), At("on_train_batch_start", fail), module=module)
    assert hooks(module) == 0


@uses("multiplications", shardable=True)
def per_multiplication(layer: LayerView) -> Tensor:
    """Claim by cost alone: a rule of the user's own."""
    return 1 / layer.require("multiplications")


def test_a_rule_of_the_user_s_own_can_decide_by_them() -> None:
    callback = train(per_multiplication)
    assert active_weights(callback) == BUDGET
    assert callback.history[0].layers["net.3.weight"].share == pytest.approx(0.9)


def test_groups_of_layers_can_have_different_rules() -> None:
    cheap = Recipe(PRUNING["magnitude"], momentum_per_multiplication, GROWTH["momentum"])
    callback = SparseTrainingCallback({"net.0": cheap, "*": "sparse_momentum"}, DENSITY)
    module = NineTokens()
    fit(callback, module=module)
    assert (active_weights(callback), stray_weights(callback, module)) == (BUDGET, {})


class Recorded(NineTokens):
    """Counts the graphs that are compiled, batch by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs: list[int] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.graphs.append(counters["stats"]["unique_graphs"])


class CompiledPart(Recorded):
    """Compiles its network only."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        if in_place:
            self.net[0].compile(backend="aot_eager")
        else:
            self.net[0] = torch.compile(self.net[0], backend="aot_eager")


def compiled(kind: str) -> Any:
    return torch.compile(Recorded(), backend="aot_eager") if kind == "module" else CompiledPart(kind == "in place")


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs PyTorch 2.6")
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("kind", ["module", "submodule", "in place"])
def test_a_compiled_module_tells_as_much_in_a_first_step_that_is_not_compiled(kind: str) -> None:
    module = compiled(kind)
    with torch._dynamo.config.patch(error_on_recompile=True):
        callback = train(RULES[0], module, limit_val_batches=0, num_sanity_val_steps=0)
    graphs = module.graphs
    assert graphs[0] == 0
    assert set(graphs[1:]) == {graphs[-1]} != {0}
    plain = train(RULES[0], Recorded())
    assert callback.network is not None
    assert plain.network is not None
    assert callback.network.multiplications == plain.network.multiplications
    assert differences(callback.state_dict()["network"]["masks"], plain.state_dict()["network"]["masks"]) == []


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_compiled_module_is_compiled_from_the_first_step_on_where_no_rule_asks() -> None:
    module = compiled("submodule")
    train("momentum", module, limit_val_batches=0, num_sanity_val_steps=0)
    assert module.graphs[0] > 0


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs PyTorch 2.6")
@pytest.mark.usefixtures("_fresh_compiler")
def test_a_fit_that_fails_before_its_first_step_leaves_the_compiler_as_it_was() -> None:
    def fail(*_: Any) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fit(
            SparseMomentumCallback(redistribution=RULES[0]),
            At("on_train_batch_start", fail),
            module=compiled("submodule"),
        )
    torch.compile(nn.Linear(2, 2), backend="aot_eager")(torch.zeros(1, 2))
    assert counters["stats"]["unique_graphs"] == 1
