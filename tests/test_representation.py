"""Every public object shows itself in one line, or in a small table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lightning_sparse
from lightning_sparse import analysis, callbacks, comparison, data, execution, methods, rounds, search, topology
from lightning_sparse.validation.representation import ShowsOptions, short_text

IMAGES, LABELS = np.zeros((8, 6, 6), np.uint8), np.arange(8) % 4
CHANGE = topology.LayerChange("fc1", 100, 10, 5, 5, 0.5)
SIZES = {f"layer{number}": 100 for number in range(60)}
MANY = {f"layer{number}": CHANGE for number in range(60)}

EXAMPLES: dict[str, Callable[[], object]] = {
    "ArrayDataModule": lambda: data.ArrayDataModule(IMAGES, LABELS, IMAGES, LABELS, num_classes=4, batch_size=4),
    "CIFAR100DataModule": lambda: data.CIFAR100DataModule("folder"),
    "CIFAR10DataModule": lambda: data.CIFAR10DataModule("folder"),
    "ClassSpecializationCallback": lambda: callbacks.ClassSpecializationCallback("ReLU", num_classes=4),
    "Comparison": lambda: analysis.compare(*[{"a": torch.rand(4), "b": torch.rand(4)} for _ in range(2)]),
    "ComputedWeights": lambda: execution.with_weight(torch.sigmoid),
    "DeepRewiring": lambda: methods.DeepRewiring(l1=0.1),
    "DensitySchedule": lambda: methods.DensitySchedule(0.1, every_n_steps=5),
    "DensitySearch": lambda: search.DensitySearch.read("mnist_lenet300"),
    "DigitsDataModule": lambda: data.DigitsDataModule(batch_size=16),
    "FashionMNISTDataModule": lambda: data.FashionMNISTDataModule("folder"),
    "GradientFlowCallback": lambda: callbacks.GradientFlowCallback(every_n_steps=5, name="steps"),
    "GradientFlowRecord": lambda: callbacks.GradientFlowRecord(
        0, 1, None, {"l1": 1.0}, {}, {name: {"l1": 1.0} for name in MANY}, {}
    ),
    "ImageArrays": lambda: data.image_arrays(IMAGES, LABELS, IMAGES, LABELS, 4),
    "GroupDensities": lambda: search.GroupDensities(SIZES, ("layer1*", "*")),
    "ImageFolderDataModule": lambda: data.ImageFolderDataModule("folder"),
    "ImageNetDataModule": lambda: data.ImageNetDataModule("folder"),
    "InMemoryLoader": lambda: data.InMemoryLoader(
        torch.zeros(8, 1, 6, 6), torch.zeros(8).long(), 4, shuffle=True, seed=1
    ),
    "L0Regularization": lambda: methods.L0Regularization(strength=2.0),
    "LayerChange": lambda: CHANGE,
    "LayerView": lambda: topology.LayerView(
        "fc1", torch.zeros(300, 784), torch.zeros(300, 784).bool(), torch.Generator()
    ),
    "MNISTDataModule": lambda: data.MNISTDataModule("folder"),
    "Method": methods.Method,
    "LayerDensities": lambda: search.LayerDensities(SIZES),
    "MethodDriver": lambda: methods.MethodDriver(
        methods.Method(), lightning_sparse.SparseNetwork(nn.Linear(20, 10)), 0.05
    ),
    "MutationSampler": lambda: search.MutationSampler(search.LayerDensities(SIZES)),
    "Normalize": lambda: data.Normalize([0.5], [0.5]),
    "NpzDataModule": lambda: data.NpzDataModule("file.npz", num_classes=4),
    "PadCropFlip": lambda: data.PadCropFlip(4, True),
    "Phase": lambda: methods.Phase("training", until=0.5),
    "PowerLaw": lambda: search.PowerLaw(SIZES),
    "Progress": lambda: methods.Progress(3, 1, 20),
    "RandomSampler": lambda: search.RandomSampler(search.LayerDensities(SIZES), seed=3),
    "RandomStateCallback": callbacks.RandomStateCallback,
    "Recipe": lambda: topology.RECIPES["sparse_momentum"],
    "ReplacedForward": lambda: execution.replace_forward(nn.Linear(2, 2), execution.with_weight(torch.sigmoid)),
    "Rewiring": lambda: topology.Rewiring({}, {name: torch.zeros(3, 3) for name in MANY}, tuple(MANY.values())),
    "RigL": lambda: methods.RigL(every_n_steps=5),
    "Round": lambda: rounds.Round.of(0, 0.5, 0, {"weight": torch.ones(3, 4, dtype=torch.bool)}),
    "SameCapacity": lambda: comparison.same_capacity(lambda units: nn.Linear(units, 2), 2, 5),
    "SameCapacityStudy": lambda: comparison.SameCapacityStudy.read("mnist_reduced"),
    "Score": lambda: search.Score(1, 0.5),
    "Shard": lambda: topology.Shard((4, 4), (2, 0), lambda total: total),
    "Shift": lambda: comparison.hodges_lehmann([1, 2, 3]),
    "SignedRankTest": lambda: comparison.signed_rank_test([1, 2, 3]),
    "Snip": methods.Snip,
    "SparseMomentumCallback": lambda: callbacks.SparseMomentumCallback(density=0.1, include=["fc*", nn.Linear]),
    "SparseNetwork": lambda: lightning_sparse.SparseNetwork(nn.Sequential(*[nn.Linear(9, 9) for _ in range(60)])),
    "SparseTrainingCallback": lambda: callbacks.SparseTrainingCallback("set", every_n_steps=5),
    "SparseTraining": lambda: methods.SparseTraining(
        lightning_sparse.SparseNetwork(nn.Linear(20, 10)), every_n_steps=5, steps=20
    ),
    "SparsityPictures": lambda: callbacks.SparsityPictures(3),
    "TopKast": lambda: methods.TopKast(every_n_steps=5),
    "Trial": lambda: search.Trial(1, (2, 3)),
    "UpdateRecord": lambda: callbacks.UpdateRecord(1, 100, 0.5, MANY),
}
# Modules show their parts, as PyTorch's do; errors, classes of a structure and abstract classes have no text of ours.
OTHERS = {
    "Batch", "ClassSpecialization", "ContractError", "ImageFileLoader", "ImageFiles", "InMemoryDataModule",
    "LayerClaim", "LayerCount", "MissingSignalError", "NonFiniteError", "Point", "Sampler", "ShardingError", "Space",
    "WeightScore",
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_text_of_an_object_is_one_line_or_a_small_table(name: str) -> None:
    text = repr(EXAMPLES[name]())
    assert text.startswith(name)
    assert " at 0x" not in text
    assert len(text.splitlines()) <= 15
    assert max(map(len, text.splitlines())) <= 320


def test_every_public_class_has_an_example() -> None:
    names = json.loads((Path(__file__).parent / "public_names.json").read_text(encoding="utf-8"))["names"]
    classes = {
        name
        for room, listed in names.items()
        if room != "lightning_sparse.callbacks.figures"  # the old name of one that is no class
        for name in listed
        if isinstance(cls := getattr(__import__(room, fromlist=["_"]), name), type) and not issubclass(cls, nn.Module)
    }
    assert classes - OTHERS == set(EXAMPLES)


def test_options_that_differ_from_their_defaults_are_shown_and_others_not() -> None:
    assert repr(callbacks.SparsityPictures()) == "SparsityPictures()"
    assert repr(callbacks.SparsityPictures(3)) == "SparsityPictures(every_n_epochs=3)"
    text = repr(callbacks.SparseMomentumCallback(density=0.1, growth="random"))
    assert "density=0.1, prune_rate=0.5 (cosine), every_n_epochs=1" in text
    assert "include" not in text


def test_an_object_that_was_not_made_to_its_end_has_a_text_too() -> None:
    class Unfinished(ShowsOptions):
        def __init__(self, size: int = 3) -> None:
            self.size = size

    assert repr(Unfinished.__new__(Unfinished)) == "Unfinished()"


def test_options_of_a_class_of_the_user_are_shown_where_it_keeps_them() -> None:
    class Swaps(methods.Method):
        def __init__(self, every: int, rate: float = 0.3, names: tuple[str, ...] = ()) -> None:
            self.every, self._rate, self._chosen = every, rate, names

    class Lifted(Swaps):
        def __init__(self, least: int) -> None:
            super().__init__(7, 0.5)
            self._least_number = least

    class Other(callbacks.SparseMomentumCallback):
        def __init__(self, extra: int = 1) -> None:
            super().__init__(density=0.1)
            self.extra = extra

    assert repr(Swaps(7, 0.5, ("fc",))) == "Swaps(every=7, rate=0.5)"
    assert repr(Swaps(every=3)) == "Swaps(every=3)"
    assert repr(Lifted(2)) == "Lifted(every=7, rate=0.5)"
    assert "extra=2" in repr(Other(2))
    assert "extra" not in repr(Other())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(3, 2), "Tensor of shape (3, 2)"),
        (nn.Linear, "Linear"),
        ((1,), "(1,)"),
        ([torch.relu, 1], "[relu, 1]"),
        (object(), "object(...)"),
        ("a\nb", r"'a\nb'"),
    ],
)
def test_values_are_short(value: object, text: str) -> None:
    assert short_text(value) == text
