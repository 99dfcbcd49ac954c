"""Masks of one network are those of another: given as they are, by a network, or by a file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from lightning_sparse import SparseNetwork
from lightning_sparse.analysis import count_bytes


def model(seed: int = 0, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, classes))


def network(seed: int = 0, **options: Any) -> SparseNetwork:
    return SparseNetwork(model(seed), **{"density": 0.3, "seed": seed, **options})


class Wrapped(nn.Module):
    """Holds a network under a name, as a LightningModule does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


def equal(masks: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return list(masks) == list(others) and all(torch.equal(mask, others[name]) for name, mask in masks.items())


def numbers(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: mask.float() for name, mask in masks.items()}


SOURCES: dict[str, Callable[[SparseNetwork, Path], Any]] = {
    "masks": lambda given, _: given.masks,
    "numbers": lambda given, _: numbers(given.masks),
    "network": lambda given, _: given,
    "state": lambda given, _: given.state_dict(),
    "file": lambda given, folder: saved(given.state_dict(), folder / "network.pt"),
    "file as text": lambda given, folder: str(saved(given.state_dict(), folder / "network.pt")),
    "checkpoint": lambda given, folder: saved(checkpoint(given), folder / "run.ckpt"),
    "content of a checkpoint": lambda given, _: checkpoint(given),
}


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def checkpoint(given: SparseNetwork) -> dict[str, Any]:
    """Return what a Lightning checkpoint has, as far as masks are concerned."""
    callbacks = {
        "EarlyStopping": {"wait": 1},
        "SparseMomentumCallback": {"network": given.state_dict(), "last": [0, 0]},
    }
    return {"state_dict": given.model.state_dict(), "callbacks": callbacks}


@pytest.mark.parametrize("source", SOURCES)
def test_masks_are_taken_over_with_their_density(source: str, tmp_path: Path) -> None:
    given = network()
    taken = SparseNetwork(model(1), masks=SOURCES[source](given, tmp_path), seed=5)
    assert equal(taken.masks, given.masks)
    assert (taken.density, taken.layer_densities) == (given.density, given.layer_densities)
    untouched = model(1)
    expected = {name: untouched.get_parameter(name) * mask for name, mask in given.masks.items()}
    assert equal({name: taken.model.get_parameter(name).detach() for name in expected}, expected)


def test_without_masks_others_are_drawn() -> None:
    assert not equal(network(1).masks, network(0).masks)


@pytest.mark.parametrize("source", SOURCES)
def test_bytes_are_those_of_the_network_that_masks_come_from(source: str, tmp_path: Path) -> None:
    given = network()
    taken = SparseNetwork(model(1), masks=SOURCES[source](given, tmp_path))
    assert count_bytes(taken.model, taken.masks) == count_bytes(given.model, given.masks)


def test_names_may_have_a_prefix_more_or_less() -> None:
    given = network()
    longer = SparseNetwork(Wrapped(Wrapped(model(1))), masks=given)
    assert list(longer.masks) == [f"net.net.{name}" for name in given.masks]
    shorter = SparseNetwork(model(2), masks=longer)
    assert equal(shorter.masks, given.masks)


def test_a_prefix_that_could_be_one_of_two_is_an_error() -> None:
    twins = nn.ModuleDict({"student": model(), "teacher": model()})
    with pytest.raises(ValueError, match=r"which may mean student.0.weight or teacher.0.weight. Cure: pass masks"):
        SparseNetwork(twins, masks=network())


def test_masks_of_a_tied_weight_have_any_of_its_names() -> None:
    tied = model()
    tied.add_module("again", tied[0])
    own = SparseNetwork(tied, density=0.3).masks
    named = {name.replace("0.weight", "again.weight"): mask for name, mask in own.items()}
    assert equal(SparseNetwork(tied, masks=named).masks, own)
    with pytest.raises(ValueError, match=r"got another one for 'again\.weight'"):
        SparseNetwork(tied, masks={**own, "again.weight": ~own["0.weight"]})


def test_masks_choose_weights_that_are_not_masked_by_default() -> None:
    torch.manual_seed(0)
    given = SparseNetwork(nn.ModuleList([nn.LSTM(4, 6), nn.Linear(6, 2)]), include=["default", "LSTM"], density=0.5)
    taken = SparseNetwork(nn.ModuleList([nn.LSTM(4, 6), nn.Linear(6, 2)]), masks=given)
    assert equal(taken.masks, given.masks)
    assert set(taken.masks).isdisjoint(taken.why_unmasked)
    taken.check_weights()


def test_frozen_weights_are_masked_if_masks_are_given_for_them_and_not_otherwise() -> None:
    given, frozen = network(), model(1)
    frozen[0].requires_grad_(False)
    taken = SparseNetwork(frozen, masks=given)
    assert equal(taken.masks, given.masks)
    taken.check_weights()
    frozen[0].requires_grad_(True)
    taken.check_weights()
    other = model(1)
    other[0].requires_grad_(False)
    assert "0.weight" not in SparseNetwork(other, density=0.3).masks


def test_a_wholly_frozen_network_takes_masks_over_for_evaluation() -> None:
    given, frozen = network(), model(1).requires_grad_(False)
    taken = SparseNetwork(frozen, masks=given)
    assert equal(taken.masks, given.masks)
    assert set(taken.why_unmasked) == {"0.bias", "2.bias", "4.bias"}


def test_a_new_layer_is_excluded_or_kept_dense_and_is_an_error_otherwise() -> None:
    given = network()
    for classes in (9, 4):
        new = model(1, classes=classes)
        known = {name: mask for name, mask in given.masks.items() if classes == 4 or name != "4.weight"}
        known.pop("4.weight", None)
        with pytest.raises(ValueError, match=r"got none for 4.weight. Cure: exclude=\['4'\] trains"):
            SparseNetwork(new, masks=known)
        excluded = SparseNetwork(new, masks=known, exclude="4")
        assert equal(excluded.masks, known)
        kept = SparseNetwork(new, masks=known, dense="4")
        assert kept.density > excluded.density
        assert (list(kept.masks), kept.local_mask("4.weight")) == ([*known, "4.weight"], None)


def test_a_layer_of_another_shape_is_an_error_unless_it_is_excluded_with_its_mask() -> None:
    given, new = network(), model(1, classes=9)
    with pytest.raises(ValueError, match=r"shape \(9, 16\) for '4.weight'; got \(4, 16\).*exclude=\['4'\]"):
        SparseNetwork(new, masks=given)
    assert list(SparseNetwork(new, masks=given, exclude=["4"]).masks) == ["0.weight", "2.weight"]


def test_a_layer_that_is_gone_is_an_error_unless_its_mask_is_excluded() -> None:
    given, body = network(), model(1)[:3]
    with pytest.raises(ValueError, match=r"got some for what Sequential has not: 4.weight. Cure:"):
        SparseNetwork(body, masks=given)
    taken = SparseNetwork(body, masks=given, exclude=["4"])
    assert list(taken.masks) == ["0.weight", "2.weight"]
    assert set(taken.why_unmasked) == {"0.bias", "2.bias"}
    taken.check_weights()


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], dict[str, Any], str]] = {
    "unknown": (lambda masks: {**masks, "5.weight": masks["4.weight"]}, {}, "what Sequential has not: 5.weight"),
    "missing": (lambda masks: {"0.weight": masks["0.weight"]}, {}, "none for 2.weight, 4.weight"),
    "shape": (lambda masks: {**masks, "0.weight": masks["0.weight"].T}, {}, r"shape \(20, 12\) for '0.weight'"),
    "values": (lambda masks: {**masks, "2.weight": masks["2.weight"] * 0.5}, {}, "of 0 and 1.*'2.weight'; got"),
    "not finite": (lambda masks: {**masks, "2.weight": masks["2.weight"] * torch.nan}, {}, "of 0 and 1"),
    "no tensor": (lambda masks: {**masks, "0.weight": [True]}, {}, r"bool tensors; got '0.weight': \[True\]"),
    "a bias": (lambda masks: {**masks, "0.bias": torch.ones(20)}, {}, r"can't be masked: 0.bias \(a bias"),
    "not included": (lambda masks: masks, {"include": ["0", "2"]}, r"4.weight \(not among the layers to include\)"),
    "nothing": (lambda masks: {}, {}, "got none among nothing"),
    "weights": (
        lambda masks: {"state_dict": masks},
        {},
        "got none among state_dict.*full checkpoint.*weight != 0",
    ),
    "a number": (lambda masks: 0.3, {}, "got 0.3"),
    "density": (lambda masks: masks, {"density": 0.2}, "as density=0.2 has; got .* density 0.299.*leave density out"),
    "sparsity": (lambda masks: masks, {"sparsity": 0.5}, "as density=0.5 has"),
    "minimum": (
        lambda masks: {**masks, "0.weight": torch.zeros(20, 12)},
        {"min_active": 1},
        "at least 1 active .* got 0 in 0.weight",
    ),
    "pattern": (lambda masks: masks, {"exclude": "head"}, "'head'"),
    "kept dense": (lambda masks: masks, {"dense": "head"}, "'head'"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_masks_that_do_not_fit_are_refused_and_nothing_is_changed(fault: str) -> None:
    wrong, options, message = WRONG[fault]
    taking = model(1)
    before = copy.deepcopy(taking.state_dict())
    with pytest.raises((ValueError, TypeError), match=f"(?s)Expected .*{message}"):
        SparseNetwork(taking, masks=wrong(network().masks), **options)
    assert equal(dict(taking.state_dict()), before)


@pytest.mark.parametrize("options", [{"density": 0.3}, {"sparsity": 0.7}, {"density": {"*": 0.3}}, {}])
def test_a_density_that_masks_have_may_be_given(options: dict[str, Any]) -> None:
    given = network()
    assert SparseNetwork(model(1), masks=given, **options).density == given.density


def test_weights_that_are_sparse_by_other_masks_are_refused_and_not_changed() -> None:
    given, other = network(), network(1)
    before = copy.deepcopy(other.model.state_dict())
    with pytest.raises(ValueError, match=r"weights that are dense, in '0.weight'.*sparse by other masks.*Cure: load"):
        SparseNetwork(other.model, masks=given)
    assert equal(dict(other.model.state_dict()), before)


def test_weights_may_be_sparse_by_the_same_masks_or_by_more() -> None:
    given = network(density=0.5)
    assert equal(SparseNetwork(given.model, masks=given.masks).masks, given.masks)
    fewer = {name: mask & (torch.rand(mask.shape) < 0.5) for name, mask in given.masks.items()}
    assert equal(SparseNetwork(given.model, masks=fewer).masks, fewer)


def test_a_network_with_masks_that_were_taken_over_trains_as_the_one_they_come_from() -> None:
    first = network()
    second = SparseNetwork(copy.deepcopy(first.model), masks=first, seed=0)
    second._generator.set_state(first._generator.get_state())
    inputs = torch.randn(8, 12)
    for each in (first, second):
        optimizer = SGD(each.model.parameters(), lr=0.1, momentum=0.9)
        each.attach(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            each.model(inputs).square().mean().backward()
            optimizer.step()
            each.rewire("set", 0.3)
    assert equal(first.masks, second.masks)
    assert equal(dict(first.model.state_dict()), dict(second.model.state_dict()))
