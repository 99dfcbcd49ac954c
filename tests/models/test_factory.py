"""Networks are made by name, by import path, and by nothing else."""

from __future__ import annotations

import re
import sys
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from published import shape_of
from torch import nn

from lightning_sparse import models
from lightning_sparse.models import create_model, model_names
from lightning_sparse.models.factory import has_option

torchvision = pytest.importorskip("torchvision")


def small(units: int = 3) -> nn.Module:
    return nn.Linear(2, units)


def untold(units: int = 3):  # type: ignore[no-untyped-def]  # the point of it
    return nn.Linear(2, units)


def lies() -> nn.Module:
    return 3  # type: ignore[return-value]  # wrong on purpose


def unresolved() -> Nowhere:  # type: ignore[name-defined]  # noqa: F821  # wrong on purpose
    return nn.Linear(2, 2)


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make a module of the user's own, to import from."""
    module = ModuleType("users_networks")
    module.__dict__.update(small=small, untold=untold, lies=lies, unresolved=unresolved)
    module.__dict__.update(six=partial(small, 6), flat=nn.Flatten, made=nn.Linear(2, 2), number=3)
    monkeypatch.setitem(sys.modules, "users_networks", module)
    return module


@pytest.mark.parametrize("path", ["users_networks.small", "users_networks:small"])
def test_an_import_path_makes_the_users_network(users: ModuleType, path: str) -> None:
    assert create_model(path).out_features == 3
    assert create_model(path, units=5).out_features == 5


def test_classes_and_partial_functions_of_the_user_make_networks(users: ModuleType) -> None:
    assert isinstance(create_model("users_networks.flat", start_dim=2), nn.Flatten)
    assert create_model("users_networks.six").out_features == 6


def test_torchvisions_networks_have_their_import_path() -> None:
    with torch.device("meta"):
        model = create_model("torchvision.models.resnet18", num_classes=7)
    assert type(model) is torchvision.models.ResNet
    assert model.fc.out_features == 7


@pytest.mark.parametrize("name", ["AlexNet", "LeNet300100", "LeNet5Caffe", "MLP", "ResNet50", "VGG16", "WideResNet"])
def test_class_names_are_names(name: str) -> None:
    assert type(shape_of(name)) is getattr(models, name)


def test_every_class_is_made_by_some_name() -> None:
    exported = {value for name in models.__all__ if isinstance(value := getattr(models, name), type)}
    assert {type(shape_of(name)) for name in model_names()} == exported - {models.ImageClassifier}


@pytest.mark.parametrize("name", ["vgg16", "VGG16-D", "", "lenet", "nosuch.module", "torch.nn.Nosuch", ".", "a..b"])
def test_an_unknown_name_is_refused_with_those_there_are(name: str) -> None:
    names = re.escape(", ".join(model_names()))
    with pytest.raises(ValueError, match=rf"Expected the name of a network \({names}\) or an import path;"):
        create_model(name)


@pytest.mark.parametrize("name", [None, 3, nn.Flatten, nn.Flatten(), ["mlp"]], ids=str)
def test_a_name_of_another_type_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match=r"Expected the name of a network; got .*Cure: one of lenet-300-100"):
        create_model(name)


@pytest.mark.parametrize("attribute", ["untold", "unresolved", "made", "number"])
def test_functions_not_annotated_to_return_a_network_are_not_called(users: ModuleType, attribute: str) -> None:
    with pytest.raises(
        TypeError, match=r"Expected that .* or a function annotated to return one; got .*Cure: annotate"
    ):
        create_model(f"users_networks.{attribute}")


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.exec", "torch.load", "torch.zeros", "builtins.dict", "os.path"]
)
def test_a_name_from_elsewhere_calls_no_other_function(name: str) -> None:
    with pytest.raises(TypeError, match="Expected that"):
        create_model(name, command="exit 1")


def test_a_function_that_makes_something_else_is_refused(users: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"Expected that 'users_networks.lies' makes a torch.nn.Module.*; got a int"):
        create_model("users_networks.lies")


@pytest.mark.parametrize(
    ("name", "option"),
    [("wrn-28-2", "depth"), ("vgg16-d", "variant"), ("alexnet-s", "variant"), ("mlp", "dropout"), ("mlp", "widths")],
)
def test_an_option_that_a_name_does_not_have_is_refused_with_those_it_has(name: str, option: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected options of '{name}' from \(.*num_classes=10.*\); got \['{option}"):
        create_model(name, **{option: 16})
    assert not has_option(name, option)


def test_options_that_names_have(users: ModuleType) -> None:
    assert all(has_option(name, "num_classes") and has_option(name, "width") for name in model_names())
    assert has_option("torchvision.models.resnet18", "num_classes")
    assert has_option("users_networks.small", "units")
    assert not has_option("users_networks.small", "num_classes")
