"""A network from a checkpoint: masks and random state, and weights on request; never zeros in place of weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lightning_sparse import SparseNetwork
from lightning_sparse.testing.equality import differences


def model(seed: int = 0, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.Linear(20, classes))


class Module(nn.Module):
    """Stands for the LightningModule around a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


def train(network: SparseNetwork, steps: int = 3) -> None:
    """Train without momentum, for which the network then keeps averages of gradients."""
    optimizer = SGD(network.model.parameters(), lr=0.1)
    network.attach(optimizer)
    for step in range(steps):
        inputs = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
        net = getattr(network.model, "net", network.model)
        optimizer.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()
        network.rewire("set", 0.3)
    network.detach()


@pytest.fixture
def trained() -> SparseNetwork:
    network = SparseNetwork(Module(model()), density=0.3)
    train(network)
    return network


def write(network: SparseNetwork, path: Path, **more: Any) -> Path:
    callbacks = {"SparseMomentumCallback": {"network": network.state_dict()}}
    torch.save({"state_dict": network.model.state_dict(), "callbacks": callbacks, **more}, path)
    return path


def test_masks_random_state_and_averages_are_those_that_were_saved(trained: SparseNetwork, tmp_path: Path) -> None:
    path = write(trained, tmp_path / "run.ckpt")
    loaded = Module(model(1))
    loaded.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    network = SparseNetwork.from_checkpoint(loaded, path)
    assert differences(network.state_dict(), trained.state_dict()) == []
    assert network.steps == 3
    for each in (trained, network):
        train(each)
    assert differences(network.state_dict(), trained.state_dict()) == []
    assert differences(dict(loaded.state_dict()), dict(trained.model.state_dict())) == []


def test_weights_are_loaded_on_request(trained: SparseNetwork, tmp_path: Path) -> None:
    fresh = Module(model(1))
    network = SparseNetwork.from_checkpoint(fresh, write(trained, tmp_path / "run.ckpt"), weights=True)
    assert network.model is fresh
    assert differences(dict(fresh.state_dict()), dict(trained.model.state_dict())) == []
    assert differences(network.masks, trained.masks) == []


def test_weights_of_the_network_in_a_module_are_loaded_by_their_names_in_it(
    trained: SparseNetwork, tmp_path: Path
) -> None:
    net = model(1)
    network = SparseNetwork.from_checkpoint(net, write(trained, tmp_path / "run.ckpt"), weights=True)
    assert differences(dict(net.state_dict()), dict(trained.model.net.state_dict())) == []
    assert list(network.masks) == ["0.weight", "2.weight"]
    around = Module(model(2))
    bare = SparseNetwork(copy.deepcopy(net), masks=network)
    again = SparseNetwork.from_checkpoint(around, write(bare, tmp_path / "bare.ckpt"), weights=True)
    assert differences(dict(around.net.state_dict()), dict(net.state_dict())) == []
    assert differences(again.masks, trained.masks) == []


def test_weights_that_were_not_saved_with_the_masks_are_an_error_and_stay(
    trained: SparseNetwork, tmp_path: Path
) -> None:
    path, fresh = write(trained, tmp_path / "run.ckpt"), Module(model(1))
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(ValueError, match=r"zero where .* inactive; got \d+ others in net.0.weight.*weights=True"):
        SparseNetwork.from_checkpoint(fresh, path)
    assert differences(dict(fresh.state_dict()), dict(before)) == []
    assert SparseNetwork(fresh, masks=path).density == trained.density


def test_sparse_weights_of_another_run_are_replaced_by_those_of_the_checkpoint(
    trained: SparseNetwork, tmp_path: Path
) -> None:
    other = SparseNetwork(Module(model(1)), density=0.3, seed=5).model
    SparseNetwork.from_checkpoint(other, write(trained, tmp_path / "run.ckpt"), weights=True)
    assert differences(dict(other.state_dict()), dict(trained.model.state_dict())) == []


def test_a_new_head_is_left_out_by_exclude(trained: SparseNetwork, tmp_path: Path) -> None:
    path, tuned = write(trained, tmp_path / "run.ckpt"), copy.deepcopy(trained.model)
    tuned.net[2] = nn.Linear(20, 7)
    head = tuned.net[2].weight.detach().clone()
    with pytest.raises(ValueError, match=r"exclude=\['net.2'\]"):
        SparseNetwork.from_checkpoint(tuned, path)
    network = SparseNetwork.from_checkpoint(tuned, path, exclude=["net.2"])
    assert list(network.masks) == ["net.0.weight"]
    assert torch.equal(tuned.net[2].weight, head)
    train(network)
    assert network.density == trained.layer_densities["net.0.weight"]


def test_weights_that_do_not_fit_are_refused_before_any_is_loaded(trained: SparseNetwork, tmp_path: Path) -> None:
    path, tuned = write(trained, tmp_path / "run.ckpt"), Module(model(1, classes=7))
    before = copy.deepcopy(tuned.state_dict())
    with pytest.raises(ValueError, match=r"got none, or of another shape, for net.2.weight, net.2.bias. Cure: load"):
        SparseNetwork.from_checkpoint(tuned, path, weights=True, exclude="net.2")
    assert differences(dict(tuned.state_dict()), dict(before)) == []


def test_another_density_is_refused_before_anything_is_loaded(trained: SparseNetwork, tmp_path: Path) -> None:
    path, fresh = write(trained, tmp_path / "run.ckpt"), Module(model(1))
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(ValueError, match="leave density out"):
        SparseNetwork.from_checkpoint(fresh, path, weights=True, density=0.5)
    assert differences(dict(fresh.state_dict()), dict(before)) == []


def test_a_saved_state_has_masks_but_no_weights(trained: SparseNetwork, tmp_path: Path) -> None:
    torch.save(trained.state_dict(), tmp_path / "network.pt")
    network = SparseNetwork.from_checkpoint(copy.deepcopy(trained.model), tmp_path / "network.pt")
    assert differences(network.state_dict(), trained.state_dict()) == []
    with pytest.raises(ValueError, match=r"its state_dict; got none among .*weights=False"):
        SparseNetwork.from_checkpoint(Module(model(1)), tmp_path / "network.pt", weights=True)


def test_the_file_beside_weights_that_are_split_over_processes_has_the_masks(
    trained: SparseNetwork, tmp_path: Path
) -> None:
    write(trained, tmp_path / "meta.pt")
    assert differences(SparseNetwork(Module(model(1)), masks=tmp_path).masks, trained.masks) == []


class Code:
    """Stands for what is not to be run when a file is loaded."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (pytest.fail, ("a file's code was run",))


def flipped(path: Path, network: SparseNetwork) -> None:
    content = bytearray(write(network, path).read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damaged_state(path: Path, network: SparseNetwork) -> None:
    state = network.state_dict()
    state["masks"]["net.0.weight"][0] ^= 1
    torch.save({"callbacks": {"SparseMomentumCallback": {"network": state}}}, path)


FAULTS: dict[str, tuple[Callable[[Path, SparseNetwork], object], str]] = {
    "no file": (lambda path, network: None, r"got '.*run.ckpt', where there is none"),
    "a directory": (lambda path, network: path.mkdir(), "a directory without one"),
    "weights only": (
        lambda path, network: torch.save({"state_dict": network.model.state_dict()}, path),
        r"masks in '.*run.ckpt'.*got none among state_dict. Cure: take a full checkpoint",
    ),
    "before masks": (
        lambda path, network: torch.save({"callbacks": {"SparseMomentumCallback": {"network": None}}}, path),
        "got none among callbacks",
    ),
    "masks alone": (lambda path, network: torch.save(dict(network.masks), path), "got none among net.0.weight"),
    "a list": (lambda path, network: torch.save([1, 2], path), "got a list"),
    "code": (lambda path, network: torch.save({"callbacks": Code()}, path), r"refuses to load.*weights_only=False"),
    "pickle": (
        lambda path, network: path.write_bytes(pickle.dumps({"callbacks": Code()}, protocol=2)),
        "refuses to load",
    ),
    "text": (lambda path, network: path.write_text("masks"), "refuses to load"),
    "empty": (lambda path, network: path.write_text(""), "refuses to load"),
    "a flipped bit": (flipped, "as it was written; got"),
    "a flipped bit in the state": (damaged_state, "checksum"),
    "two networks": (
        lambda path, network: write(
            network, path, callbacks={name: {"network": network.state_dict()} for name in "ab"}
        ),
        "of one sparse network; got 2",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_without_sound_masks_are_refused_and_nothing_is_changed(
    fault: str, trained: SparseNetwork, tmp_path: Path
) -> None:
    make, message = FAULTS[fault]
    make(tmp_path / "run.ckpt", trained)
    fresh = Module(model(1))
    before = copy.deepcopy(fresh.state_dict())
    for load in (
        lambda path: SparseNetwork.from_checkpoint(fresh, path),
        lambda path: SparseNetwork.from_checkpoint(fresh, path, weights=True),
        lambda path: SparseNetwork(fresh, masks=path),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=f"(?s)Expected .*{message}"):
            load(tmp_path / "run.ckpt")
    assert differences(dict(fresh.state_dict()), dict(before)) == []
