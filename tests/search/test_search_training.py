"""One training of a search: in parts it is as in one go, and its network is the one that was asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from searches import OPTIONS, search
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse._compat import LightningDataModule, LightningModule
from lightning_sparse.search import training_process
from lightning_sparse.search.template import make_data
from lightning_sparse.search.training_process import run
from lightning_sparse.search.trainings import Architecture, SearchTraining

pytestmark = [
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
COUNTS = {"fc1.weight": 5000, "fc2.weight": 120, "fc3.weight": 100}


def training(epochs: int = 4, continues: int = 0, tests: bool = False, **changes: Any) -> SearchTraining:
    architecture = changes.pop("architecture", Architecture(COUNTS))
    protocol = search(**changes).protocol
    return SearchTraining("tiny", "trials", "trial000", architecture, 3, epochs, continues, tests, protocol)


def result_of(asked: SearchTraining, data: Path, results: Path) -> dict[str, Any]:
    found = run(asked, data, results)
    assert found is not None
    assert found == json.loads((results / f"{asked.path}.json").read_text())
    return found


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[LightningModule]:
    """Return a list of the modules that were trained."""
    modules: list[LightningModule] = []
    train = training_process.train_resumably

    def note(trainer: Any, model: LightningModule, *rest: Any, **options: Any) -> Any:
        modules.append(model)
        return train(trainer, model, *rest, **options)

    monkeypatch.setattr(training_process, "train_resumably", note)
    return modules


SCHEDULE = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 4}}


@pytest.mark.parametrize(
    "changes",
    [{}, {"lr_scheduler": SCHEDULE, "sparse_training": {"recipe": "set", "prune_rate": 0.3}}],
    ids=["static", "moving masks and a schedule"],
)
def test_a_training_that_is_continued_is_one_that_never_ended(
    changes: dict[str, Any], trained: list[LightningModule], small_images: Path, tmp_path: Path
) -> None:
    whole = result_of(training(4, **changes), small_images, tmp_path / "whole")
    parts = tmp_path / "parts"
    for epochs, continues in ((1, 0), (2, 1), (4, 2)):
        last = result_of(training(epochs, continues, **changes), small_images, parts)
    assert last["value"] == whole["value"]
    for at_once, in_parts in zip(trained[0].parameters(), trained[-1].parameters(), strict=True):
        assert torch.equal(at_once, in_parts)
    assert not torch.equal(next(trained[0].parameters()), next(trained[2].parameters()))
    assert [file.name for file in parts.rglob("*.ckpt") if file.name != "last.ckpt"] == []


class Drawing(LightningDataModule):
    """Data whose loaders draw from PyTorch's global random state, those of validation too."""

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size
        images = torch.rand(256, 784, generator=torch.Generator().manual_seed(0))
        self.images = TensorDataset(images, torch.arange(256) % 10)

    def train_dataloader(self) -> Any:
        return DataLoader(self.images, self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.images, self.batch_size)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_a_training_with_loaders_that_draw_is_continued_as_one_that_never_ended(
    trained: list[LightningModule], small_images: Path, tmp_path: Path
) -> None:
    data = {"class_path": f"{__name__}.Drawing"}
    changes: dict[str, Any] = {**MINE, "model": f"{__name__}.Dropping", "metric": "hits", "data": data}
    result_of(training(4, architecture=OF_MINE, **changes), small_images, tmp_path / "whole")
    for epochs, continues in ((1, 0), (2, 1), (4, 2)):
        asked = training(epochs, continues, architecture=OF_MINE, **changes)
        result_of(asked, small_images, tmp_path / "parts")
    for at_once, in_parts in zip(trained[0].parameters(), trained[-1].parameters(), strict=True):
        assert torch.equal(at_once, in_parts)


@pytest.mark.parametrize(
    "changes", [{"lr_scheduler": SCHEDULE}, {"sparse_training": {"recipe": "set", "prune_rate": 0.3}}], ids=str
)
def test_a_schedule_and_a_recipe_make_another_network(
    changes: dict[str, Any], trained: list[LightningModule], small_images: Path, tmp_path: Path
) -> None:
    run(training(4), small_images, tmp_path / "without")
    run(training(4, **changes), small_images, tmp_path / "with")
    assert not torch.equal(next(trained[0].parameters()), next(trained[1].parameters()))


def test_without_the_checkpoint_a_training_starts_again(small_images: Path, tmp_path: Path) -> None:
    whole = result_of(training(4), small_images, tmp_path / "whole")
    alone = result_of(training(4, 2), small_images, tmp_path / "alone")
    assert alone["value"] == whole["value"]


def test_an_interrupted_training_resumes(
    trained: list[LightningModule], monkeypatch: pytest.MonkeyPatch, small_images: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("LIGHTNING_SPARSE_SAVE_SECONDS", "0")
    run(training(2), small_images, tmp_path / "whole")

    def fail(*_: Any) -> None:
        raise KeyError("interrupted")

    with monkeypatch.context() as broken:
        broken.setattr(training_process, "_measure", fail)
        with pytest.raises(KeyError):
            run(training(2), small_images, tmp_path / "again")
    again = result_of(training(2), small_images, tmp_path / "again")
    assert (tmp_path / "again/tiny/trials/trial000/epochs2.ckpt").exists()
    assert again["value"] == json.loads((tmp_path / "whole/tiny/trials/trial000/epochs2.json").read_text())["value"]
    assert torch.equal(next(trained[0].parameters()), next(trained[-1].parameters()))


@pytest.mark.parametrize("tests", [False, True])
def test_a_result_has_what_a_search_needs(tests: bool, small_images: Path, tmp_path: Path) -> None:
    found = result_of(training(1, tests=tests), small_images, tmp_path)
    assert found["active"] == COUNTS
    assert 0 <= found["value"] <= 1
    assert found["loss"] > 0
    assert not found["diverged"]
    assert found["seed"] == 3


def test_a_network_has_as_many_nonzero_weights_as_its_architecture_says(
    trained: list[LightningModule], small_images: Path, tmp_path: Path
) -> None:
    run(training(1), small_images, tmp_path)
    counts = {name: int(weight.count_nonzero()) for name, weight in trained[0].named_parameters() if weight.dim() > 1}
    assert [counts[f"model.{name}"] for name in COUNTS] == list(COUNTS.values())


def test_an_architecture_without_counts_is_dense(
    trained: list[LightningModule], small_images: Path, tmp_path: Path
) -> None:
    found = result_of(training(1, architecture=Architecture()), small_images, tmp_path)
    assert found["active"] == {"fc1.weight": 23520, "fc2.weight": 300, "fc3.weight": 100}
    assert all(bool(weight.all()) for name, weight in trained[0].named_parameters() if weight.dim() > 1)
    wider = result_of(training(1, architecture=Architecture(width=0.2), tests=True), small_images, tmp_path)
    assert wider["active"]["fc1.weight"] == 784 * 60


def test_gradual_pruning_ends_with_exactly_as_many_weights(
    trained: list[LightningModule], small_images: Path, tmp_path: Path
) -> None:
    pruned = Architecture(COUNTS, pruned_from_dense=True)
    found = result_of(training(4, architecture=pruned, tests=True), small_images, tmp_path)
    assert sum(found["active"].values()) == 5220
    nonzero = sum(int(weight.count_nonzero()) for weight in trained[0].parameters() if weight.dim() > 1)
    assert nonzero == 5220


def test_seeds_have_other_batches(monkeypatch: pytest.MonkeyPatch, small_images: Path, tmp_path: Path) -> None:
    seeds: list[int] = []
    make = training_process.make_data
    monkeypatch.setattr(training_process, "make_data", lambda *given: (seeds.append(given[2]), make(*given))[1])
    for seed in (3, 4):
        run(replace(training(1), seed=seed), small_images, tmp_path / str(seed))
    assert seeds == [3, 4]


def test_seeds_have_other_masks_and_the_same_seed_the_same(small_images: Path, tmp_path: Path) -> None:
    first, again = (result_of(training(1), small_images, tmp_path / name) for name in "ab")
    other = result_of(replace(training(1), seed=4), small_images, tmp_path / "c")
    assert first["masks"] == again["masks"] != other["masks"]
    assert first["value"] == again["value"]


@pytest.mark.filterwarnings("ignore:Encountered `nan` values in tensor", "ignore:non-finite gradients")
def test_a_network_that_is_not_finite_has_diverged(small_images: Path, tmp_path: Path) -> None:
    steep = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}}
    found = result_of(training(1, optimizer=steep), small_images, tmp_path)
    assert found["diverged"]
    assert "value" not in found


class Projects(LightningModule):
    """A module of somebody's own, with an optimizer and metrics of its own."""

    def __init__(self, units: int = 16) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(784, units), nn.Linear(units, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.out(self.hidden(images.flatten(1)).relu())  # type: ignore[no-any-return]  # __call__ returns Any

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/hits", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Dropping(Projects):
    """The same with dropout, which draws from the global random state."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(images, training=self.training))


MINE: dict[str, Any] = {"model": f"{__name__}.Projects", "model_options": {"units": 8}, "optimizer": None}
OF_MINE = Architecture({"hidden.weight": 600, "out.weight": 50})


def test_a_lightning_module_is_searched_as_it_is(
    trained: list[LightningModule], small_images: Path, tmp_path: Path
) -> None:
    found = result_of(training(2, architecture=OF_MINE, metric="hits", **MINE), small_images, tmp_path)
    assert isinstance(trained[0], Projects)
    assert found["active"] == dict(OF_MINE.counts)
    assert 0 <= found["value"] <= 1


def test_a_metric_that_is_not_logged_is_named(small_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a module that logs val/accuracy; got val/hits\. Cure: metric"):
        run(training(1, architecture=OF_MINE, **MINE), small_images, tmp_path)


def test_an_optimizer_is_needed_for_a_network(small_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected an optimizer.*Cure"):
        run(training(1, optimizer=None), small_images, tmp_path)


def test_a_lightning_module_with_an_optimizer_of_the_search_is_refused(small_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no optimizer and no lr_scheduler for a LightningModule.*Cure"):
        run(
            training(1, architecture=OF_MINE, metric="hits", **{**MINE, "optimizer": OPTIONS["optimizer"]}),
            small_images,
            tmp_path,
        )


@pytest.mark.parametrize("tests", [False, True])
@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("patterns", [{"exclude": ("fc3",)}, {"include": ("fc1", "fc2")}], ids=["exclude", "include"])
def test_layers_that_are_not_searched_stay_dense(
    patterns: dict[str, Any],
    pruned: bool,
    tests: bool,
    trained: list[LightningModule],
    small_images: Path,
    tmp_path: Path,
) -> None:
    some = {name: count for name, count in COUNTS.items() if name != "fc3.weight"}
    asked = training(4, tests=tests, architecture=Architecture(some, pruned_from_dense=pruned), **patterns)
    found = result_of(asked, small_images, tmp_path)
    assert sum(found["active"].values()) == 5120
    assert set(found["active"]) == set(some)
    left = {name: int(weight.count_nonzero()) for name, weight in trained[0].named_parameters() if weight.dim() > 1}
    assert left["model.fc3.weight"] == 100
    assert left["model.fc1.weight"] + left["model.fc2.weight"] == 5120


def test_layers_of_a_lightning_module_that_are_not_searched_stay_dense(
    trained: list[LightningModule], small_images: Path, tmp_path: Path
) -> None:
    asked = training(1, architecture=Architecture({"hidden.weight": 600}), metric="hits", exclude=("out",), **MINE)
    assert result_of(asked, small_images, tmp_path)["active"] == {"hidden.weight": 600}
    assert int(trained[0].get_parameter("out.weight").count_nonzero()) == 80


def test_options_of_the_data_that_the_search_gives_are_refused(tmp_path: Path) -> None:
    data = {"class_path": "lightning_sparse.data.MNISTDataModule", "init_args": {"batch_size": 3}}
    with pytest.raises(ValueError, match=r"init_args of data without batch_size.*Cure"):
        make_data(search(data=data).protocol, tmp_path, 0)


class Users(LightningDataModule):
    """Data that hand other options to something else."""

    def __init__(self, batch_size: int = 8, **options: Any) -> None:
        super().__init__()
        self.batch_size, self.options = batch_size, options


def test_data_get_no_options_that_they_do_not_have(tmp_path: Path) -> None:
    made: Any = make_data(search(data={"class_path": f"{__name__}.Users"}).protocol, tmp_path, 7)
    assert (made.batch_size, made.options) == (64, {})


@pytest.mark.parametrize("kind", ["MNISTDataModule", "CIFAR10DataModule", "DigitsDataModule", "NpzDataModule"])
def test_data_get_the_batch_size_and_the_seed_of_a_training(kind: str, tmp_path: Path) -> None:
    own = {"path": "images.npz"} if kind == "NpzDataModule" else {}
    data = {"name": "mnist", "class_path": f"lightning_sparse.data.{kind}", "init_args": own}
    made: Any = make_data(search(data=data, batch_size=48).protocol, tmp_path, 7)
    assert (made.batch_size, made.shuffle_seed) == (48, 7)
