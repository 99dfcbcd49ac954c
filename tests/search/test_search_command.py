"""`lightning-sparse search`: from a YAML file to tables and pictures, also when its process is killed."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from searches import OPTIONS
from stand_ins import environment, is_running, wait_until
from torch import nn

from lightning_sparse._compat import LightningModule
from lightning_sparse.data import MNISTDataModule
from lightning_sparse.experiments.engine.orders import Order, Outcome
from lightning_sparse.experiments.runner import FailedRunsError
from lightning_sparse.search import command, search
from lightning_sparse.search.training_process import run
from lightning_sparse.search.trainings import SearchTraining

pytestmark = [
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is experimental"),
]


class InThisProcess:
    """An engine that makes trainings in the tests' process, which is quicker than starting others."""

    def __init__(self, fails: str = "") -> None:
        self.slots, self.made, self._fails = 1, list[str](), fails

    def submit(self, order: Order) -> Future[Outcome]:
        self.made.append(order.path)
        ended: Future[Outcome] = Future()
        if self._fails and self._fails in order.path:
            ended.set_result(Outcome("failed", log_end="first\nKeyError: broken"))
            return ended
        run(SearchTraining.from_json(order.description), Path(order.data), Path(order.results))
        ended.set_result(Outcome("finished", order.result_file.read_text()))
        return ended

    def cancel(self, futures: Any) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> InThisProcess:
    """Return the engine that the command uses."""
    made = InThisProcess()

    @contextmanager
    def opened(**options: Any) -> Iterator[InThisProcess]:
        yield made

    monkeypatch.setattr(command, "open_engine", opened)
    return made


def write(folder: Path, **changes: Any) -> str:
    """Write a search, and return its file."""
    options = {key: value for key, value in {**OPTIONS, **changes}.items() if key != "name"}
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(lists))
    return str(file)


@pytest.mark.parametrize("sampler", ["mutation", "tpe"])
def test_a_search_ends_with_its_best_network_and_all_controls(
    sampler: str, engine: InThisProcess, small_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, sampler=sampler, trials=4, rungs=2, epochs=2, penalty=0.05)
    search(file, data=small_images, results=tmp_path)
    folder = tmp_path / "tiny"
    text = (folder / "search.md").read_text()
    for name in ("best of the search", "best of random search", "dense template", "same capacity, dense"):
        assert f"| {name} |" in text
    for name in ("uniform density", "Erdos-Renyi-kernel", "gradual pruning"):
        assert f"| {name} |" in text
    assert "4 of 4 trials" in text
    assert f"chosen by {sampler}" in capsys.readouterr().out
    assert (folder / "search.html").read_text().count("<img") == 3
    with (folder / "trials.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["part"] for row in rows] == ["search"] * 4 + ["random"] * 4
    assert all(0 <= float(row["accuracy after 1 epochs"]) <= 1 for row in rows)
    assert not list(folder.rglob("*.ckpt"))
    finals = [json.loads(each.read_text()) for each in folder.glob("final/*/seed*.json")]
    assert {result["seed"] for result in finals} == {1, 2}
    assert len(finals) == 7 * 2
    best = next(result for result in finals if result["label"] == "best")
    for result in finals:
        same = result["label"] not in ("dense", "same_capacity", "random_search")
        assert (sum(result["active"].values()) == sum(best["active"].values())) or not same
    made = list(engine.made)
    search(file, data=small_images, results=tmp_path)
    assert engine.made == made  # nothing is trained twice
    assert (folder / "search.md").read_text() == text


def test_the_test_data_are_not_touched_before_the_end(
    engine: InThisProcess, small_images: Path, tmp_path: Path
) -> None:
    search(write(tmp_path, trials=2, rungs=1, epochs=1), data=small_images, results=tmp_path, final=False)
    assert not [path for path in engine.made if "/final/" in path]
    assert "test error" not in (tmp_path / "tiny/search.md").read_text()
    assert (tmp_path / "tiny/search.html").exists()


def test_fewer_controls_make_fewer_trainings(engine: InThisProcess, small_images: Path, tmp_path: Path) -> None:
    file = write(tmp_path, trials=2, rungs=1, epochs=1, controls=["uniform"], width=None, final_seeds=1)
    search(file, data=small_images, results=tmp_path)
    parts = [path.split("/")[1:] for path in engine.made]
    assert [[part, label.partition("-")[0], measured] for part, label, measured in parts] == [
        ["trials", "trial000", "epochs1"],
        ["trials", "trial001", "epochs1"],
        ["final", "best", "seed1"],
        ["final", "uniform", "seed1"],
    ]


def test_more_trials_and_a_lower_bound_choose_again_without_another_name(
    engine: InThisProcess, small_images: Path, tmp_path: Path
) -> None:
    few = {"rungs": 1, "epochs": 1, "controls": ["uniform"], "width": None, "final_seeds": 1, "sampler": "random"}
    search(write(tmp_path, trials=3, **few), data=small_images, results=tmp_path)
    (first,) = finals(tmp_path)
    made = len(engine.made)
    search(write(tmp_path, trials=4, max_active=first - 1, **few), data=small_images, results=tmp_path)
    assert [path.split("/")[1] for path in engine.made[made:]] == ["trials", "final", "final"]
    assert max(set(finals(tmp_path)) - {first}) < first
    text = (tmp_path / "tiny/search.md").read_text()
    assert "4 of 4 trials" in text
    assert f"at most {first - 1:,} active weights" in text
    assert "The test data were used for 1 other networks before" in text


def finals(results: Path) -> list[int]:
    """Return the numbers of active weights of all that were the best once."""
    found = [json.loads(each.read_text()) for each in results.glob("tiny/final/best-*/seed1.json")]
    return [sum(result["active"].values()) for result in found]


class WithoutTest(LightningModule):
    """A module that can't be tested."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(784, 10)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log nothing."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": f"{__name__}.WithoutTest", "model_options": {}, "optimizer": None}, "a test_step of .*WithoutTest"),
        ({"model": "lightning.pytorch.LightningModule", "model_options": {}, "optimizer": None}, "at least one weight"),
        ({"data": {**OPTIONS["data"], "init_args": {"val_fraction": 0.0}}}, "validation data, by which trials"),
        ({"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": "1e-4"}}}, "an optimizer and a learning"),
        ({"width": "height"}, "options that .*LeNet300100 takes; got width, height"),
    ],
)
def test_what_would_fail_after_all_trials_is_refused_before_them(
    changes: dict[str, Any], message: str, engine: InThisProcess, small_images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"Expected {message}.*Cure"):
        search(write(tmp_path, **changes), data=small_images, results=tmp_path)
    assert engine.made == []


def test_test_images_that_choose_the_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"other images than the validation data.*Cure: init_args: {test_folder"):
        command._check_data(SameFolder(tmp_path))


class SameFolder(MNISTDataModule):
    """Data of folders, whose test images are those of validation by default."""

    test_folder = None

    def prepare_data(self) -> None:
        """Have them already."""

    def setup(self, stage: str) -> None:
        """Read none."""


def test_a_database_is_refused_by_samplers_without_one(
    engine: InThisProcess, small_images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"the sampler tpe or cma_es, for a database; got mutation\. Cure"):
        search(write(tmp_path), data=small_images, results=tmp_path, storage="sqlite:///x.db")


def test_one_process_at_a_time_chooses_the_trials(engine: InThisProcess, small_images: Path, tmp_path: Path) -> None:
    file = write(tmp_path)
    refused = pytest.raises(RuntimeError, match=r"one process that searches .*Cure: wait")
    with command._alone(tmp_path / "tiny"), refused:
        search(file, data=small_images, results=tmp_path)
    assert engine.made == []


def test_a_search_whose_trainings_all_fail_ends_early_with_the_error(
    monkeypatch: pytest.MonkeyPatch, small_images: Path, tmp_path: Path
) -> None:
    broken = InThisProcess(fails="trial")
    monkeypatch.setattr(command, "open_engine", lambda **_: contextless(broken))
    with pytest.raises(FailedRunsError, match="KeyError: broken"):
        search(write(tmp_path), data=small_images, results=tmp_path)
    assert len(broken.made) == 3


def test_a_trial_that_fails_each_time_holds_up_nothing_and_is_told_of_at_the_end(
    monkeypatch: pytest.MonkeyPatch, small_images: Path, tmp_path: Path
) -> None:
    broken = InThisProcess(fails="trials/trial001")
    monkeypatch.setattr(command, "open_engine", lambda **_: contextless(broken))
    file = write(tmp_path, trials=4, rungs=1, epochs=1, controls=["random_search"], width=None, final_seeds=1)
    for made in (4 + 4 + 2, 1):
        broken.made.clear()
        with pytest.raises(FailedRunsError, match=r"trial001.*KeyError: broken.*start again"):
            search(file, data=small_images, results=tmp_path)
        assert len(broken.made) == made
    assert "| best of random search |" in (tmp_path / "tiny/search.md").read_text()


@pytest.mark.filterwarnings("ignore:Encountered `nan` values in tensor", "ignore:non-finite gradients")
def test_trials_that_all_diverge_are_an_error(engine: InThisProcess, small_images: Path, tmp_path: Path) -> None:
    steep = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e30}}
    file = write(tmp_path, optimizer=steep, trials=2, rungs=1, epochs=1)
    with pytest.raises(RuntimeError, match=r"trials whose weights stay finite; got none.*Cure"):
        search(file, data=small_images, results=tmp_path)


@contextmanager
def contextless(engine: InThisProcess) -> Iterator[InThisProcess]:
    yield engine


PROGRAM = """
import sys
from pathlib import Path
from lightning_sparse.search import search
from lightning_sparse.search.trainings import SearchTraining
SearchTraining.program = property(lambda training: "search_stand_in")
search(sys.argv[1], data=Path(sys.argv[2]), results=Path(sys.argv[3]), jobs=2, final=False, storage=sys.argv[4] or None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_a_search_whose_process_is_killed_goes_on_with_the_same_trials(small_images: Path, tmp_path: Path) -> None:
    file = write(tmp_path, sampler="tpe", trials=9, rungs=2, controls=["dense"])
    arguments = [sys.executable, "-c", PROGRAM, file, str(small_images), str(tmp_path), ""]
    first = subprocess.Popen(arguments, env=environment())
    results = tmp_path / "tiny/trials"
    wait_until(lambda: len(list(results.glob("*/epochs*.json"))) >= 3, 120)
    first.send_signal(signal.SIGKILL)
    first.wait()
    killed = time.monotonic()
    numbers = [int(each.name.split(".")[1]) for each in results.glob("*/started.*")]
    wait_until(lambda: not any(map(is_running, numbers)), 5)
    assert time.monotonic() - killed < 5
    made = {each: each.stat().st_mtime_ns for each in results.glob("*/epochs*.json")}
    subprocess.run(arguments, env=environment(), check=True, stdout=subprocess.DEVNULL)
    tried = [json.loads(line) for line in (results / "trials.jsonl").read_text().splitlines()]
    assert [each["number"] for each in tried] == list(range(9))
    assert len({tuple(each["genotype"]) for each in tried}) == 9
    assert len(list(results.glob("*/epochs2.json"))) == 9
    assert all(each.stat().st_mtime_ns == when for each, when in made.items())
