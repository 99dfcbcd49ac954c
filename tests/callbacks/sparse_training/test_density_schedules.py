"""Runs whose density changes: exact at every stage, resumed from every step, beside updates that move weights."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny_training import (
    At,
    ShufflingLoader,
    TinyModule,
    active_weights,
    differences,
    everything,
    fit,
    masks_of,
    saved,
    saving_everywhere,
    stray_weights,
    trainer,
)

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.methods import DensitySchedule
from lightning_sparse.network import SparseNetwork
from lightning_sparse.topology import LayerView, Recipe, uses
from lightning_sparse.topology.growth import momentum, random
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.validation.errors import InvalidValueError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

GRADUAL: dict[str, Any] = {"recipe": "magnitude_pruning", "density": DensitySchedule(0.1, every_n_steps=2, end=8)}
SIZE = 80


def watched(sparse: SparseTrainingCallback, **options: Any) -> list[int]:
    """Train, and return the number of active weights after every batch; inactive ones are zero."""
    counts: list[int] = []

    def count(_: Any, module: Any) -> None:
        assert stray_weights(sparse, module) == {}
        assert sum(layer.active for layer in sparse.network.layers.values()) == active_weights(sparse)
        counts.append(active_weights(sparse))

    fit(sparse, At("on_train_batch_end", count), **{"max_epochs": 4, **options})
    return counts


def cubic(step: int) -> int:
    """Return the number of weights of the formula at a step."""
    return round((0.1 + 0.9 * (1 - min(step, 8) / 8) ** 3) * SIZE)


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 2, "loader": ShufflingLoader(6)}], ids=["plainly", "accumulating"]
)
def test_gradual_pruning_has_the_density_of_the_formula_at_every_stage(options: dict[str, Any]) -> None:
    sparse = SparseTrainingCallback(**GRADUAL)
    counts = watched(sparse, **options)
    per_batch = options.get("accumulate_grad_batches", 1)
    assert counts == [cubic(batch // per_batch // 2 * 2) for batch in range(len(counts))]
    assert counts[0] == SIZE
    assert counts[-1] == 8
    assert sparse.network.density == 0.1
    assert [record.prune_rate for record in sparse.history] == [0.0] * 4


def test_a_weight_that_was_pruned_gradually_stays_so() -> None:
    sparse, masks = SparseTrainingCallback(**GRADUAL), list[dict[str, Any]]()
    fit(sparse, At("on_train_batch_end", lambda *_: masks.append(masks_of(sparse))), max_epochs=4)
    for earlier, later in pairwise(masks):
        assert not any((later[name] & ~earlier[name]).any() for name in later)


@pytest.mark.parametrize(
    "options",
    [
        GRADUAL,
        {"recipe": "magnitude_pruning", "density": DensitySchedule(0.2, 0.9, "exponential")},
        {
            "recipe": Recipe(magnitude, None, random, ranking="network"),
            "density": DensitySchedule(0.1, 0.5, "linear", every_n_steps=3, end=9),
        },
        {"recipe": "sparse_momentum", "density": {"net.0": DensitySchedule(0.2, end=3), "*": 0.5}, "every_n_steps": 3},
        {"recipe": "sparse_momentum", "density": DensitySchedule(0.6, 0.2, "linear", end=3)},
    ],
    ids=["gradual", "exponential", "network", "groups", "growing"],
)
def test_a_run_resumes_exactly_from_every_checkpoint(tmp_path: Path, options: dict[str, Any]) -> None:
    callback = SparseTrainingCallback(**options)
    run = fit(callback, *saving_everywhere(tmp_path), max_epochs=4)
    expected = everything(run, callback)
    assert len({sum(change.active for change in record.layers.values()) for record in callback.history}) > 1
    wrong = {}
    for moment, path in saved(tmp_path).items():
        torch.manual_seed(99)
        resumed = SparseTrainingCallback(**options)
        wrong[moment] = differences(everything(fit(resumed, max_epochs=4, ckpt_path=path), resumed), expected)
    assert {moment: places for moment, places in wrong.items() if places} == {}


def test_weights_move_at_the_density_of_the_time() -> None:
    sparse = SparseMomentumCallback(DensitySchedule(0.2, 0.6, "linear", every_n_epochs=2, end=4), every_n_steps=3)
    counts = watched(sparse, max_epochs=6, loader=ShufflingLoader(4))
    assert counts == [48] * 8 + [32] * 8 + [16] * 8
    assert [(record.step, record.prune_rate > 0) for record in sparse.history] == [
        *[(3, True), (6, True), (8, False), (9, True), (12, True), (15, True), (16, False)],
        *[(18, True), (21, False)],  # the prune rate ends at zero
    ]
    grown = [sum(change.grown for change in record.layers.values()) for record in sparse.history]
    assert all(number > 0 for number, record in zip(grown, sparse.history, strict=True) if record.prune_rate > 0.1)


def test_groups_of_layers_have_recipes_and_schedules_of_their_own() -> None:
    sparse = SparseTrainingCallback(
        {"net.0": "magnitude_pruning", "net.3": Recipe(magnitude, None, momentum)},
        {"net.0": DensitySchedule(0.25, end=2), "net.3": 0.5},
        schedule="constant",
    )
    counts: list[dict[str, int]] = []
    fit(
        sparse,
        At("on_train_epoch_end", lambda *_: counts.append({n: int(m.sum()) for n, m in masks_of(sparse).items()})),
        max_epochs=4,
    )
    first, last = TinyModule().net[0].weight.numel(), TinyModule().net[3].weight.numel()
    assert [count["net.0.weight"] for count in counts] == [
        first,
        round((0.25 + 0.75 * 0.5**3) * first),
        round(0.25 * first),
        round(0.25 * first),
    ]
    assert {count["net.3.weight"] for count in counts} == {round(0.5 * last)}
    moved = [(r.layers["net.0.weight"].grown, r.layers["net.3.weight"].grown) for r in sparse.history]
    assert all(one == 0 < other for one, other in moved)


def test_a_fit_says_what_density_it_plans(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # as the console that prints is made once for all tests
    fit(SparseTrainingCallback(**GRADUAL), max_epochs=4, enable_model_summary=True)
    output = capsys.readouterr().out
    assert "Planned density: 1 to 0.1, one change after every 2 steps, from step 2 to 8." in output
    assert "Planned topology updates" not in output


def test_a_run_that_ends_before_the_final_density_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="a run that reaches the final density, 0.1") as caught:
        fit(SparseTrainingCallback(**GRADUAL), max_epochs=2)
    assert sum("density" in str(each.message) for each in caught) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Expected a run that reaches")
        fit(SparseTrainingCallback(**GRADUAL), max_epochs=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "magnitude_pruning"}, "a density that changes, for a recipe that only removes"),
        ({"recipe": "magnitude_pruning", "density": 0.1}, r"density=DensitySchedule\(0\.05\)"),
        ({"recipe": "static", "density": DensitySchedule(0.1)}, "a recipe that prunes"),
        ({"recipe": {"0": "set", "*": "static"}, "density": DensitySchedule(0.1)}, "a mapping of patterns"),
        ({"density": DensitySchedule(0.1), "sparsity": 0.9}, "a density or a sparsity"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_makes_no_schedule_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        SparseTrainingCallback(**options)


def test_an_endless_run_cannot_be_followed() -> None:
    sparse = SparseTrainingCallback("magnitude_pruning", DensitySchedule(0.1))
    with pytest.raises(InvalidValueError, match="known length for a density"):
        fit(sparse, max_epochs=-1, max_steps=-1)


def test_a_callback_shows_its_schedule() -> None:
    shown = repr(SparseTrainingCallback("magnitude_pruning", DensitySchedule(0.1)))
    assert "DensitySchedule(0.1, 1.0, cubic)" in shown


def test_the_density_is_logged_as_it_changes() -> None:
    densities: list[float] = []

    class Logged(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            densities.append(float(trainer.callback_metrics["sparsity/density"]))

    fit(SparseTrainingCallback(**GRADUAL), Logged(), max_epochs=4)
    assert densities == pytest.approx([cubic(step // 2 * 2) / SIZE for step in range(len(densities))])


@pytest.mark.parametrize(
    "options", [GRADUAL, {**GRADUAL, "density": {"net.0": GRADUAL["density"], "*": 0.5}}], ids=["all", "groups"]
)
def test_a_network_that_is_trained_again_does_not_go_back(options: dict[str, Any]) -> None:
    sparse, module = SparseTrainingCallback(**options), TinyModule()
    fit(sparse, module=module, max_epochs=3)
    before = masks_of(sparse)
    again = watched(sparse, module=module)
    assert again == [sum(int(mask.sum()) for mask in before.values())] * len(again)
    assert differences(masks_of(sparse), before) == []


@pytest.mark.parametrize("recipe", ["magnitude_pruning", {"net.0": "static", "*": "magnitude_pruning"}], ids=str)
def test_a_density_that_stays_beside_one_that_changes_keeps_its_number(recipe: Any) -> None:
    # 0.35 of 48 weights: masks are rounded in each layer, updates over a group.
    sparse, counts = SparseTrainingCallback(recipe, {"net.0": 0.35, "*": DensitySchedule(0.25)}), list[int]()
    fit(sparse, At("on_train_batch_end", lambda *_: counts.append(int(masks_of(sparse)["net.0.weight"].sum()))))
    assert set(counts) == {round(0.35 * 48)}
    assert sparse.network.layers["net.3.weight"].active == 8


def test_a_run_that_is_resumed_with_another_length_reaches_its_density(tmp_path: Path) -> None:
    def gradual() -> SparseTrainingCallback:
        return SparseTrainingCallback("magnitude_pruning", DensitySchedule(0.1, end=0.5))

    saving = At("on_train_epoch_end", lambda run, _: run.save_checkpoint(tmp_path / f"{run.current_epoch}.ckpt"))
    fit(gradual(), saving, max_epochs=20)
    for epoch, length in ((4, 8), (2, 40)):
        resumed = gradual()
        fit(resumed, max_epochs=length, ckpt_path=str(tmp_path / f"{epoch}.ckpt"))
        assert resumed.network.density == 0.1
    late = SparseTrainingCallback("magnitude_pruning", DensitySchedule(0.1, end=2))
    module = TinyModule()
    run = trainer(max_epochs=3)
    run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    run.fit_loop.max_epochs = 6
    run.callbacks = [late]  # type: ignore[attr-defined]  # an attribute that Lightning does not declare
    run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert late.network.density == 0.1


@pytest.mark.parametrize(
    "density", [DensitySchedule(0.2), {"net.0": DensitySchedule(0.2), "*": DensitySchedule(0.5)}], ids=["all", "groups"]
)
def test_layers_that_are_frozen_in_a_run_stay_and_others_go_as_far_as_they_can(density: Any) -> None:
    sparse = SparseTrainingCallback("magnitude_pruning", density)
    freeze = At("on_train_epoch_start", lambda run, m: m.net[0].weight.requires_grad_(run.current_epoch < 1))
    fit(freeze, sparse, max_epochs=5)
    counts = {name: layer.active for name, layer in sparse.network.layers.items()}
    assert counts["net.0.weight"] > 0.2 * 48
    assert counts["net.3.weight"] == (1 if isinstance(density, DensitySchedule) else 16)


def test_the_same_parameters_in_a_new_module_keep_what_a_schedule_has_reached(tmp_path: Path) -> None:
    class Wrapper(TinyModule):
        def __init__(self, inner: TinyModule) -> None:
            super().__init__()
            self.net = inner.net

    sparse, module = SparseTrainingCallback(**GRADUAL), TinyModule()
    fit(sparse, module=module, max_epochs=4)
    path = tmp_path / "again.ckpt"
    saving = At("on_train_epoch_end", lambda run, _: run.save_checkpoint(path) if run.current_epoch == 0 else None)
    fit(sparse, saving, module=Wrapper(module), max_epochs=3)
    assert active_weights(sparse) == 8
    resumed = SparseTrainingCallback(**GRADUAL)
    fit(resumed, module=Wrapper(TinyModule()), max_epochs=3, ckpt_path=str(path))
    assert active_weights(resumed) == 8


def test_a_run_with_masks_of_another_resumes_after_its_budget_changed(tmp_path: Path) -> None:
    @uses(shardable=True)
    def two(layer: LayerView) -> int:
        return 2

    def losing() -> SparseTrainingCallback:
        return SparseTrainingCallback(Recipe(magnitude, count=two), masks_from=network)

    network = SparseNetwork(TinyModule(), 0.5, seed=0)
    saving = At("on_train_epoch_end", lambda run, _: run.save_checkpoint(tmp_path / "one.ckpt"))
    first = losing()
    fit(first, saving)
    assert active_weights(first) == 40 - 2 * 2 * 2
    resumed = losing()
    fit(resumed, max_epochs=5, ckpt_path=str(tmp_path / "one.ckpt"))
    assert active_weights(resumed) == 40 - 4 * 2 * 2
