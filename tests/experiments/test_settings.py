"""What a setting changes arrives at the callback or the optimizer, and nothing else changes."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from lightning_sparse import SparseMomentumCallback, SparseNetwork
from lightning_sparse.experiments.setting import OPTIONS, Setting
from lightning_sparse.experiments.sparse_cli import SparseCLI
from lightning_sparse.reproduction.studies import STUDIES
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.redistribution import REDISTRIBUTION

pytestmark = [
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended:UserWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]
# One setting of each kind: which options it changes, in a sparse or in a dense network.
KINDS = {
    (tuple(option for option, _ in setting.changes), setting.config.endswith("_dense")): setting
    for study in STUDIES.values()
    for setting in study.settings()
    if setting.changes
}
QUIET = ("--trainer.logger", "false", "--trainer.accelerator", "cpu")
AS_CODED = [setting for setting in STUDIES["table2_as_coded"].settings() if setting.config.endswith("_as_coded")]


def build(setting: Setting) -> tuple[SparseMomentumCallback | None, Any]:
    """Return the callback and the model of a setting."""
    cli = SparseCLI([*setting.arguments(), *QUIET], run=False)
    found = [each for each in cli.trainer.callbacks if isinstance(each, SparseMomentumCallback)]  # type: ignore[attr-defined]  # set in its constructor's connectors
    return (found[0] if found else None), cli.model


@cache
def built(setting: Setting) -> dict[str, Any]:
    """Return what a setting's objects have, by the names of `OPTIONS`."""
    callback, model = build(setting)
    (group,) = model.configure_optimizers()["optimizer"].param_groups
    values = {"momentum": group["momentum"]}
    if callback is not None:
        recipe = callback._recipe
        values |= {
            "growth": recipe.grow,
            "redistribution": recipe.redistribute,
            "keep_regrown": recipe.keep_regrown,
            "prune_rate": callback._prune_rate.initial,
            "density": callback._network_options["density"],
        }
    return values


def meant(option: str, value: str | float) -> Any:
    return {
        "growth": lambda: GROWTH[str(value)],
        "redistribution": lambda: REDISTRIBUTION[str(value)],
        "keep_regrown": lambda: {"false": False, "true": True}[str(value)],
    }.get(option, lambda: value)()


def test_there_is_a_setting_for_every_option() -> None:
    assert {option for options, _ in KINDS for option in options} == set(OPTIONS)
    assert (("momentum",), False) in KINDS
    assert (("momentum",), True) in KINDS
    assert (("growth", "redistribution"), False) in KINDS


@pytest.mark.parametrize("setting", KINDS.values(), ids=lambda setting: setting.name)
def test_a_change_arrives_and_nothing_else_changes(setting: Setting) -> None:
    changed, unchanged = built(setting), built(Setting(setting.config))
    assert set(changed) == set(unchanged)
    differing = {option: value for option, value in changed.items() if value != unchanged[option]}
    assert differing == {option: meant(option, value) for option, value in setting.changes}


@pytest.mark.parametrize("setting", AS_CODED, ids=lambda setting: setting.name)
def test_as_coded_the_other_layers_have_exactly_their_percentage(setting: Setting) -> None:
    callback, model = build(setting)
    assert callback is not None
    network = SparseNetwork(model, **callback._network_options)
    (percent,) = callback._network_options["density"].values()
    dense = [layer for layer in network.layers.values() if layer.dense]
    others = [layer for layer in network.layers.values() if not layer.dense]
    assert len(dense) == (1 if "alexnet" in setting.config else 4)
    assert all(layer.active == layer.size for layer in dense)
    assert all(layer.active == round(percent * layer.size) for layer in others)
    (weights,) = [
        cell.weights for _, row in STUDIES["table2_as_coded"].rows for cell in row.values() if cell.setting == setting
    ]
    assert round(100 * network.density) == weights
