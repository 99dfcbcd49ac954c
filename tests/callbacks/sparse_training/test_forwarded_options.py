"""Options that are declared once, and forwarded, are listed, typed, described and checked everywhere."""

from __future__ import annotations

import inspect
import pydoc
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningCLI
from tiny_training import TinyModule, fit, rates

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.topology.redistribution import REDISTRIBUTION

SCHEDULE = ["prune_rate", "schedule", "every_n_epochs", "every_n_steps", "masks_from", "seed", "old_metric_names"]
NETWORK = [
    "density",
    "sparsity",
    "distribution",
    "include",
    "exclude",
    "dense",
    "min_active",
    "minimum",
    "initial_masks",
]
RULES = ["pruning", "redistribution", "growth", "keep_regrown"]


class WithPatience(SparseMomentumCallback):
    """A user's subclass with an option of its own.

    Args:
        patience: Number of epochs without an update.
        options: Options of `SparseMomentumCallback`.
    """

    def __init__(self, patience: int = 2, **options: Any) -> None:
        super().__init__(**options)
        self.patience = patience


class WithoutOptions(SparseMomentumCallback):
    """A user's subclass with a constructor that forwards nothing.

    Args:
        patience: Number of epochs without an update.
    """

    def __init__(self, patience: int = 2) -> None:
        super().__init__(density=0.3)


EXPECTED = {
    SparseTrainingCallback: {"recipe", "method", *SCHEDULE, *NETWORK},
    SparseMomentumCallback: {*SCHEDULE, *NETWORK, *RULES},
    WithPatience: {"patience", *SCHEDULE, *NETWORK, *RULES},
    WithoutOptions: {"patience"},
}
EACH_CLASS = pytest.mark.parametrize("cls", EXPECTED, ids=lambda cls: cls.__name__)


@EACH_CLASS
def test_the_signature_and_help_show_every_option(cls: type) -> None:
    assert set(inspect.signature(cls).parameters) == EXPECTED[cls]
    shown = pydoc.plain(pydoc.render_doc(cls))
    assert all(f"{name}:" in shown for name in EXPECTED[cls])


@EACH_CLASS
def test_the_command_line_lists_every_option_with_its_type_and_description(cls: type) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(cls)
    help_texts = {action.dest: action.help or "" for action in parser._actions if action.dest in EXPECTED[cls]}
    assert set(help_texts) == set(vars(parser.get_defaults())) == EXPECTED[cls]
    described = {name for name, text in help_texts.items() if re.match(r"\S.*", text)}
    assert described == EXPECTED[cls]
    listed = parser.format_help()
    assert all(f"--{name} {name.upper()}" in listed or f"--{name} {{" in listed for name in EXPECTED[cls])


@EACH_CLASS
def test_the_command_line_refuses_an_option_of_the_wrong_type(cls: type) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls)
    number = "patience" if cls is WithoutOptions else "min_active"
    assert parser.parse_args([f"--{number}", "3"])[number] == 3
    with pytest.raises(Exception, match=number):
        parser.parse_args([f"--{number}", "several"])


def test_defaults_are_those_of_the_class_that_takes_an_option() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(WithPatience).parameters.items()}
    assert (defaults["patience"], defaults["growth"], defaults["prune_rate"], defaults["min_active"]) == (
        2,
        "momentum",
        0.5,
        1,
    )


def cli(folder: Path, name: str, options: str) -> LightningCLI:
    """Return the command line of a project, with a callback from a file."""
    config = folder / "config.yaml"
    lines = "".join(f"        {line}\n" for line in options.splitlines())
    trainer = f"trainer:\n  logger: false\n  accelerator: cpu\n  callbacks:\n    - class_path: {name}\n"
    config.write_text(f"{trainer}      init_args:\n{lines}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["project", "--config", str(config)])
        return LightningCLI(TinyModule, run=False, save_config_callback=None, seed_everything_default=1)


ALL_OPTIONS = """\
prune_rate: 0.25
schedule: linear
every_n_steps: 2
seed: 5
density: 0.3
distribution: erdos_renyi
exclude: [net.9]
dense: [net.7]
min_active: 3
initial_masks: magnitude
pruning: signed_magnitude
redistribution: none
growth: random
keep_regrown: true
"""


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_a_configuration_takes_every_option(tmp_path: Path) -> None:
    callback = cli(tmp_path, "lightning_sparse.SparseMomentumCallback", ALL_OPTIONS).trainer.callbacks[0]
    assert isinstance(callback, SparseMomentumCallback)
    assert callback._network_options == {
        "density": 0.3,
        "distribution": "erdos_renyi",
        "include": None,
        "exclude": ["net.9"],
        "dense": ["net.7"],
        "min_active": 3,
        "initial_masks": "magnitude",
    }
    assert (callback._seed, callback._cadence.every_n_steps, callback._recipe.keep_regrown) == (5, 2, True)


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.parametrize("rule", REDISTRIBUTION)
def test_a_configuration_names_rules(tmp_path: Path, rule: str) -> None:
    options = f"redistribution: {rule}\n"
    callback = cli(tmp_path, "lightning_sparse.SparseMomentumCallback", options).trainer.callbacks[0]
    assert isinstance(callback, SparseMomentumCallback)
    assert callback._recipe.redistribute is REDISTRIBUTION[rule]


@pytest.mark.parametrize("wrong", ["densty: 0.3", "state: 3", "recipe: set"])
def test_a_configuration_with_an_option_that_there_is_not_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    with pytest.raises(SystemExit):
        cli(tmp_path, "lightning_sparse.SparseMomentumCallback", wrong)
    assert wrong.partition(":")[0] in capsys.readouterr().err


@pytest.mark.parametrize("cls", [SparseTrainingCallback, SparseMomentumCallback, WithPatience])
@pytest.mark.parametrize("name", ["densty", "model", "masks", "state"])
def test_an_option_that_there_is_not_is_refused_by_the_constructor(cls: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"options of {cls.__name__}; got an unexpected keyword argument '{name}'"):
        cls(**{name: 1})


@pytest.mark.parametrize(
    "options",
    [
        {"density": 2},
        {"density": 0.3, "sparsity": 0.7},
        {"sparsity": 1.5},
        {"distribution": "normal"},
        {"include": ()},
        {"exclude": 3},
        {"dense": 3},
        {"min_active": -1},
        {"min_active": 2, "minimum": 3},
        {"seed": "five"},
        {"masks_from": 3},
        {"prune_rate": 2},
        {"every_n_steps": 0},
        {"every_n_steps": 1, "every_n_epochs": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [SparseTrainingCallback, SparseMomentumCallback, WithPatience])
def test_an_option_out_of_range_is_refused_by_the_constructor(cls: Any, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"Expected .*; got .* Cure: "):
        cls(**options)


def test_density_and_schedule_may_be_positional() -> None:
    by_position = SparseMomentumCallback(0.3, 0.25, "constant", None, 2)
    by_name = SparseMomentumCallback(density=0.3, prune_rate=0.25, schedule="constant", every_n_steps=2)
    for callback in (by_position, by_name):
        fit(callback)
    assert rates(by_position) == rates(by_name) == [0.25] * 4
    assert by_position.history == by_name.history
    assert SparseTrainingCallback("set", 0.3)._network_options["density"] == 0.3


@pytest.mark.parametrize("cls", [SparseTrainingCallback, SparseMomentumCallback, WithPatience])
def test_the_old_name_of_min_active_works_with_a_warning(cls: Any) -> None:
    with pytest.warns(DeprecationWarning, match="use min_active"):
        old = cls(density=0.05, minimum=2, seed=1)
    new = cls(density=0.05, min_active=2, seed=1)
    for callback in (old, new):
        fit(callback, max_epochs=1)
    assert all(torch.equal(mask, new.network.masks[name]) for name, mask in old.network.masks.items())
    assert min(layer.active for layer in new.network.layers.values()) == 2


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_old_name_of_min_active_works_in_a_configuration(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="use min_active"):
        callback = cli(tmp_path, "lightning_sparse.SparseMomentumCallback", "minimum: 2").trainer.callbacks[0]
    assert callback._network_options["min_active"] == 2
