"""Weights and layers have the names that the user wrote, whatever wraps the model or its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from lightning_sparse import SparseNetwork
from lightning_sparse.analysis import count_bytes
from lightning_sparse.network.state import with_checksum
from lightning_sparse.selection.layers import find_layers
from lightning_sparse.selection.names import named_modules, named_parameters, written_names
from lightning_sparse.selection.weights import find_weights

# Whichever of Lightning's two packages is installed.
Fabric = import_module("lightning.fabric" if find_spec("lightning") else "lightning_fabric").Fabric

Wrap = Callable[[nn.Module], nn.Module]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 2))


def with_fabric(model: nn.Module) -> nn.Module:
    wrapped: nn.Module = Fabric(accelerator="cpu", devices=1).setup(model)
    return wrapped


WRAPPERS: dict[str, Wrap] = {
    "torch.compile": torch.compile,
    "DataParallel": nn.DataParallel,
    "an average": AveragedModel,
    "activation checkpointing": checkpoint_wrapper,
    "Fabric": with_fabric,
    "DataParallel of a compiled module": lambda model: nn.DataParallel(torch.compile(model)),
    "Fabric over DataParallel": lambda model: with_fabric(nn.DataParallel(model)),
}
wrappers = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in named_parameters(model)]


@wrappers
def test_a_wrapped_model_has_the_names_of_the_model(wrap: Wrap) -> None:
    bare = [name for name, _ in net().named_parameters()]
    assert names_of(wrap(net())) == bare
    assert list(SparseNetwork(wrap(net())).masks) == ["0.weight", "2.0.weight", "3.weight"]


@wrappers
def test_a_wrapped_part_has_the_names_of_the_part(wrap: Wrap) -> None:
    model = net()
    model[2] = wrap(model[2])  # type: ignore[index, operator]  # nn.Sequential
    assert names_of(model) == [name for name, _ in net().named_parameters()]
    assert names_of(wrap(model)) == names_of(model)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", [DistributedDataParallel, lambda model: with_fabric(DistributedDataParallel(model))])
def test_a_model_of_several_processes_has_the_names_of_the_model(wrap: Wrap) -> None:
    assert names_of(wrap(net())) == [name for name, _ in net().named_parameters()]


@pytest.mark.usefixtures("one_process")
def test_a_subclass_of_a_wrapper_is_one() -> None:
    class OwnParallel(DistributedDataParallel):
        """What a project makes of PyTorch's class."""

    assert list(SparseNetwork(OwnParallel(net())).masks) == ["0.weight", "2.0.weight", "3.weight"]


class Holder(nn.Module):
    """A module of a user that calls a part as wrappers call theirs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        setattr(self, name, nn.Linear(4, 4))


class DataParallel(Holder):
    """A class of a user that is called as PyTorch's."""


@pytest.mark.parametrize("name", ["module", "_orig_mod", "_forward_module"])
@pytest.mark.parametrize("kind", [Holder, DataParallel])
def test_what_the_user_calls_as_wrappers_do_keeps_its_name(kind: type[Holder], name: str) -> None:
    assert names_of(kind(name)) == [f"{name}.weight", f"{name}.bias"]
    assert list(SparseNetwork(nn.DataParallel(kind(name))).masks) == [f"{name}.weight"]


@wrappers
def test_patterns_and_densities_name_layers_as_the_user_does(wrap: Wrap) -> None:
    network = SparseNetwork(wrap(net()), density={"2.0": 1.0, "*": 0.25}, include=["0", "2.*"])
    assert network.layer_densities == {"0.weight": 0.25, "2.0.weight": 1.0}
    assert list(network.why_unmasked) == ["0.bias", "2.0.bias", "3.weight", "3.bias"]


@wrappers
def test_names_that_a_wrapper_adds_are_no_names(wrap: Wrap) -> None:
    with pytest.raises(ValueError, match=r"Expected a pattern that matches.*choose from 0\.weight"):
        find_weights(wrap(net()), include=["module.0", "_orig_mod.0", "_forward_module.0"])


@wrappers
def test_masks_go_from_a_wrapped_model_to_the_bare_one_and_back(wrap: Wrap) -> None:
    wrapped = SparseNetwork(wrap(net()), density=0.5, seed=0)
    bare = SparseNetwork(net(), density=0.5, seed=1, state=wrapped.state_dict())
    again = SparseNetwork(wrap(net()), density=0.5, seed=2, state=bare.state_dict())
    assert [mask.tolist() for mask in again.masks.values()] == [mask.tolist() for mask in wrapped.masks.values()]


@wrappers
def test_a_wrapped_model_trains_to_the_masks_of_the_bare_one(wrap: Wrap) -> None:
    def trained(model: nn.Module) -> dict[str, Any]:
        network, optimizer = SparseNetwork(model, density=0.5, seed=0), torch.optim.SGD(model.parameters(), 0.1, 0.9)
        network.attach(optimizer)
        inputs = torch.linspace(-1, 1, 24).view(6, 4)
        for _ in range(3):
            optimizer.zero_grad()
            _inside(model)(inputs).square().mean().backward()
            optimizer.step()
            network.rewire("sparse_momentum", 0.5)
        return {name: mask.tolist() for name, mask in network.masks.items()}

    assert trained(wrap(net())) == trained(net())


def _inside(model: nn.Module) -> nn.Module:
    """Return the bare module: calling some wrappers would compile it."""
    return next(module for _, module in named_modules(model) if type(module) is nn.Sequential)


@wrappers
def test_masks_are_enforced_on_a_wrapped_copy(wrap: Wrap) -> None:
    network, copy = SparseNetwork(net(), density=0.5), wrap(net())
    weights = dict(named_parameters(copy))
    assert all(torch.count_nonzero(weights[name]) == weights[name].numel() for name in network.masks)
    network.enforce_on(copy)
    assert all(torch.equal(weights[name] != 0, mask) for name, mask in network.masks.items())


@wrappers
def test_sizes_are_counted_by_either_name(wrap: Wrap) -> None:
    model = wrap(net())
    network = SparseNetwork(model, density=0.5)
    as_pytorch_has_them = {
        given: network.masks[name]
        for (given, _), (name, _) in zip(model.named_parameters(), named_parameters(model), strict=True)
        if name in network.masks
    }
    assert count_bytes(model, as_pytorch_has_them) == count_bytes(model, network.masks)


@wrappers
def test_layers_of_a_wrapped_model_are_found_once_by_the_names_of_the_user(wrap: Wrap) -> None:
    model = wrap(net())
    assert find_layers(model, nn.Linear) == find_layers(_inside(model), nn.Linear)
    assert list(find_layers(model, nn.Linear)) == ["0", "2.0", "3"]


def test_the_layer_that_is_found_for_a_wrapped_part_is_the_part() -> None:
    model = nn.Sequential(nn.DataParallel(nn.Conv2d(3, 4, 1)))
    assert find_layers(model) == {"0": model[0].module}


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore")  # a single process shards nothing
def test_layers_inside_of_fully_sharded_modules_have_the_names_of_the_user() -> None:
    model = FullyShardedDataParallel(net(), use_orig_params=True, device_id=torch.device("cpu"))
    assert names_of(model) == [name for name, _ in net().named_parameters()]


def _renamed(state: dict[str, Any], add: Callable[[str], str]) -> dict[str, Any]:
    content = {name: value for name, value in state.items() if name not in ("version", "checksum")}
    by_name = ("masks", "shapes", "averages", "gradients")
    return with_checksum({**content, **{kind: {add(n): v for n, v in content[kind].items()} for kind in by_name}})


def test_a_state_with_the_names_of_a_wrapper_is_loaded() -> None:
    network = SparseNetwork(net(), density=0.5, seed=0)
    older = _renamed(network.state_dict(), lambda name: f"module.{name}")
    loaded = SparseNetwork(net(), density=0.5, seed=1, state=older)
    assert [mask.tolist() for mask in loaded.masks.values()] == [mask.tolist() for mask in network.masks.values()]
    with pytest.raises(ValueError, match=r"masks of 0\.weight .*got another\.0\.weight"):
        network.load_state_dict(_renamed(network.state_dict(), lambda name: f"another.{name}"))


def test_a_damaged_state_with_the_names_of_a_wrapper_is_refused() -> None:
    network = SparseNetwork(net(), density=0.5, seed=0)
    older = _renamed(network.state_dict(), lambda name: f"module.{name}")
    with pytest.raises(ValueError, match="checksum"):
        network.load_state_dict({**older, "steps": 7})


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        (["module.a.weight"], ["a.weight", "b.weight"], ["a.weight"]),
        (["module._orig_mod.a"], ["a"], ["a"]),
        (["module.module.a"], ["module.a"], ["module.a"]),
        (["b", "module.a"], ["a", "b"], ["b", "a"]),
        # What is known is meant as it stands, and what might be several things as nothing.
        (["module.a", "a"], ["a", "module.a"], ["module.a", "a"]),
        (["module.module.a", "module.a"], ["module.a", "a"], ["module.module.a", "module.a"]),
        (["module.a", "_orig_mod.a"], ["a"], ["module.a", "_orig_mod.a"]),
        (["c"], ["a"], ["c"]),
    ],
)
def test_names_that_wrappers_added_to_are_those_of_the_user_where_only_one_can_be_meant(
    given: list[str], known: list[str], meant: list[str]
) -> None:
    assert written_names(given, known) == dict(zip(given, meant, strict=True))


def test_modules_and_tied_parameters_come_once_or_with_every_name() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight  # type: ignore[assignment]  # parameters, whatever their declaration
    model["c"] = model["a"]
    assert [name for name, _ in named_modules(model)] == ["", "a", "b"]
    assert [name for name, _ in named_modules(model, remove_duplicate=False)] == ["", "a", "b", "c"]
    for remove_duplicate in (True, False):
        expected = list(model.named_parameters(remove_duplicate=remove_duplicate))
        assert list(named_parameters(model, remove_duplicate=remove_duplicate)) == expected
