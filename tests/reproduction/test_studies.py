"""What a study runs is what its table says, with the settings of the paper."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from torch import nn

from lightning_sparse import configs
from lightning_sparse.experiments.setting import OPTIONS, SMALL, Setting
from lightning_sparse.models import create_model
from lightning_sparse.reproduction.studies import STUDIES
from lightning_sparse.reproduction.study import Cell

CELLS = [
    pytest.param(cell, id=f"{name}-{label}-{column}")
    for name, study in STUDIES.items()
    for label, row in study.rows
    for column, cell in row.items()
    if cell.setting is not None
]
AS_CODED = [
    (model, cells["sparse momentum, convolutions left dense"]) for model, cells in STUDIES["table2_as_coded"].rows
]
USED = sorted({setting.config for study in STUDIES.values() for setting in study.settings()})


def read(config: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(configs.find(config).read_text())
    return found


def options_of(config: str, part: str) -> dict[str, Any]:
    options: dict[str, Any] = read(config)[part]["init_args"]
    return options


def test_every_configuration_but_the_demos_belongs_to_a_study() -> None:
    assert set(configs.available()) - set(USED) == {"digits_lenet300"}


@pytest.mark.parametrize("cell", [cell for cell in CELLS if "convolutions left dense" not in str(cell.id)])
def test_a_cell_measures_the_percentage_of_weights_that_it_names(cell: Cell) -> None:
    assert cell.setting is not None
    callbacks = read(cell.setting.config)["trainer"].get("callbacks", [])
    changed = dict(cell.setting.changes)
    densities = [changed.get("density", callback["init_args"]["density"]) for callback in callbacks]
    assert densities == ([] if cell.weights == 100 else [pytest.approx(cell.weights / 100)])


@pytest.mark.parametrize("cell", CELLS)
def test_a_dense_baseline_differs_in_sparse_training_only(cell: Cell) -> None:
    assert cell.setting is not None
    sparse, dense = (read(setting.config) for setting in (cell.setting, cell.dense or cell.setting))
    for settings in (sparse, dense):
        settings["trainer"].pop("callbacks", None)
        settings["trainer"]["logger"]["init_args"].pop("name")
    assert sparse == dense


@pytest.mark.parametrize("name", STUDIES)
def test_changed_options_are_known_and_not_those_of_the_configuration(name: str) -> None:
    for setting in STUDIES[name].settings():
        for option, value in setting.changes:
            place: Any = read(setting.config)
            for key in OPTIONS[option].split("."):
                place = (place[0] if isinstance(place, list) else place).get(key, {})
            assert place != value


@pytest.mark.parametrize("config", USED)
def test_training_is_that_of_section_3_3(config: str) -> None:
    settings, model, data = read(config), options_of(config, "model"), options_of(config, "data")
    sgd = model["optimizer"]["init_args"]
    imagenet = config.startswith("imagenet")
    assert (sgd["lr"], sgd["momentum"], sgd["nesterov"]) == (0.1, 0.9, True)
    assert sgd["weight_decay"] == (1e-4 if imagenet else 5e-4)
    epochs, batch, decay = (
        (100, 256, (30, "epoch"))
        if imagenet
        else (100, 100, (25000, "step"))
        if "mnist" in config
        else (250, 128, (30000, "step"))
    )
    assert (settings["trainer"]["max_epochs"], data["batch_size"]) == (epochs, batch)
    schedule = model["lr_scheduler"]["init_args"]
    assert ((schedule["step_size"], model["lr_interval"]), schedule["gamma"]) == (decay, 0.1)
    # Lee et al. hold out 10 %; Mostafa & Wang nothing; ImageNet has validation images.
    held_out = None if imagenet else 0 if config.startswith("mostafa") else 0.1
    assert data.get("val_fraction") == held_out


def test_in_the_setting_of_mostafa_and_wang_chosen_layers_of_wide_networks_are_dense() -> None:
    sparse = read("mostafa_cifar10_wrn_28_2_10")["trainer"]["callbacks"][0]["init_args"]
    assert sparse["dense"] == ["model.conv1", "model.fc", "*.shortcut"]
    assert "dense" not in read("cifar10_wrn_16_8_5")["trainer"]["callbacks"][0]["init_args"]


def test_the_ablation_is_every_combination_at_5_percent() -> None:
    names = [setting.name for setting in STUDIES["table5"].settings() if "lenet300" in setting.name]
    assert names == [
        "mnist_lenet300_5",
        "mnist_lenet300_5+growth=random",
        "mnist_lenet300_5+redistribution=none",
        "mnist_lenet300_5+growth=random+redistribution=none",
    ]


def test_the_sensitivity_analysis_varies_one_thing_at_a_time() -> None:
    settings = STUDIES["sensitivity"].settings()
    assert {len(setting.changes) for setting in settings} == {0, 1}
    momenta = {dict(setting.changes).get("momentum", 0.9) for setting in settings}
    rates = {dict(setting.changes).get("prune_rate", 0.5) for setting in settings}
    assert momenta == {0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5}
    assert rates == {0.7, 0.6, 0.5, 0.4, 0.3, 0.2}
    assert not any("prune_rate" in dict(setting.changes) for setting in settings if "dense" in setting.config)


def test_methods_of_compression_are_met_at_their_own_percentages_of_weights() -> None:
    rows = STUDIES["compression"].rows
    for column, most in (("LeNet-300-100", 8.3), ("LeNet-5 Caffe", 9.3)):
        ours = {row[column].weights for label, row in rows if label == "sparse momentum" and column in row}
        theirs = {row[column].weights for label, row in rows if label not in ("dense", "sparse momentum")}
        assert ours >= {weights for weights in theirs if weights <= most}  # none was trained at targeted dropout's 10 %
    names = [setting.name for setting in STUDIES["compression"].settings()]
    assert names[:2] == ["mnist_lenet300_dense", "mnist_lenet5_dense"]
    assert {"mnist_lenet300_5+density=0.044", "mnist_lenet5_5+density=0.004", "mnist_lenet300_2"} <= set(names)


@pytest.mark.parametrize(("model", "cell"), AS_CODED)
def test_layers_are_left_dense_as_the_names_of_the_authors_code_exempt_them(model: str, cell: Cell) -> None:
    assert cell.setting is not None
    module = create_model(model.lower())
    parts = dict(module.named_modules())
    norms = [name for name, part in parts.items() if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d))]
    sizes = {name: part.weight.numel() for name, part in parts.items() if isinstance(part, (nn.Linear, nn.Conv2d))}
    exempt = [name for name in sizes if any(norm in f"{name}.weight" for norm in norms)]
    options = read(cell.setting.config)["trainer"]["callbacks"][0]["init_args"]
    assert options["dense"] == [f"model.{name}" for name in exempt]
    assert exempt != []
    alone = options_of(cell.setting.config.removesuffix("_as_coded"), "model")["model"]
    assert alone == model.lower()
    (weights,) = [c.weights for label, row in STUDIES["table2"].rows for c in [row["SNIP"]] if label == model]
    assert options["density"] == {"*": weights / 100}
    left = sum(sizes[name] for name in exempt)
    percent = 100 * left / sum(sizes.values()) + weights * (1 - left / sum(sizes.values()))
    assert round(percent) == cell.weights
    for study in ("table2", "table2_as_coded", "table5", "sensitivity"):
        note = " ".join(STUDIES[study].note.split())
        assert re.search(rf"{percent:.0f} %( of all weights)? instead of {weights:g} % \({model}\)", note)
    text = configs.find(cell.setting.config.removesuffix("_as_coded")).read_text()
    assert f"about {percent:.0f} %" in text
    assert cell.setting.config in text
    assert f"About {percent:.0f} % of all weights" in configs.find(cell.setting.config).read_text()


@pytest.mark.parametrize(("model", "cell"), AS_CODED)
def test_as_coded_differs_in_the_dense_layers_only(model: str, cell: Cell) -> None:
    assert cell.setting is not None
    coded, plain = (read(name) for name in (cell.setting.config, cell.setting.config.removesuffix("_as_coded")))
    for settings in (coded, plain):
        settings["trainer"]["logger"]["init_args"].pop("name")
        settings["trainer"]["callbacks"][0]["init_args"].pop("density")
    assert coded["trainer"]["callbacks"][0]["init_args"].pop("dense")
    assert coded == plain


def test_what_the_authors_ran_on_imagenet_is_said_where_it_differs() -> None:
    for percent, density in ((10, "0.15626"), (20, "0.25626")):
        text = configs.find(f"imagenet_resnet50_{percent}").read_text()
        assert density in text
        assert "16-mixed" in text
        assert density in STUDIES["table3"].note
    assert "72.328" in configs.find("imagenet_resnet50_10").read_text()
    for number in ("74.9 %", "77.0 %", "72.328", "90.970", "16-bit"):
        assert number in STUDIES["table3"].note
    assert "74.9 %" in configs.find("imagenet_resnet50_dense").read_text()


def test_the_note_of_table_5_argues_with_numbers_of_the_table() -> None:
    numbers = [cell.published for _, row in STUDIES["table5"].rows for cell in row.values() if cell.published]
    assert {0.011, 0.021} <= {number.error for number in numbers}
    assert "0.011 is less than" in " ".join(STUDIES["table5"].note.split())
    assert "0.021" in STUDIES["table5"].note


def test_a_small_scale_makes_slow_networks_narrow_and_leaves_lenets_as_they_are() -> None:
    narrow = "--model.init_args.model_options.width"
    assert narrow in SMALL.arguments(Setting("cifar10_vgg16_d_5"))
    assert narrow not in SMALL.arguments(Setting("mnist_lenet300_5"))
