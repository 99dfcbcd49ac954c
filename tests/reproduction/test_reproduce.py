"""From the name of a table to its runs and the table: skipped where finished, resumed where interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from PIL import Image
from rich.console import Console
from small_results import without_times
from torch.nn.functional import dropout

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.cli import main
from lightning_sparse.experiments import resumable, training_process
from lightning_sparse.experiments.datasets import prepare
from lightning_sparse.experiments.engine import finished as finishing
from lightning_sparse.experiments.engine import supervision
from lightning_sparse.experiments.engine.options import open_engine
from lightning_sparse.experiments.runner import FailedRunsError, run_missing
from lightning_sparse.experiments.setting import FULL, SMALL, Experiment, Scale, Setting
from lightning_sparse.reproduction import report as reproduction_report
from lightning_sparse.reproduction import reproduce
from lightning_sparse.reproduction.measured import MeasuredCells
from lightning_sparse.reproduction.studies import STUDIES

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended:UserWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
SPARSE = Experiment(Setting("mnist_lenet300_5"), 0, SMALL)
FULL_RUN = Experiment(Setting("mnist_lenet300_5"), 0, FULL)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_table_is_run_once_and_shown_again_without_a_run(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    options = ["--rows", "mnist_lenet300_5,mnist_lenet300_dense", "--scale", "small", "--seeds", "1", "--jobs", "2"]
    folders = ["--data", str(data), "--results", str(tmp_path), "--download", "false"]
    main(["reproduce", "table1", *options, *folders])
    assert "0 of 2 runs are done; 2 to go" in capsys.readouterr().out
    table = (tmp_path / "small" / "table1.md").read_text()
    assert table.count("(1)") == 2
    assert {path.name for path in (tmp_path / "small").iterdir()} == {
        *("mnist_lenet300_5", "mnist_lenet300_dense", "table1.md", "table1.csv", "table1.png")
    }
    (file,) = (tmp_path / "small" / "mnist_lenet300_5").iterdir()
    result = json.loads(file.read_text())
    assert (result["epochs"], result["steps"], result["weights"]) == (3, 75, 266200)
    assert (result["scale"], result["trainer"], result["compile_mode"]) == ("small", {}, None)
    assert (result["device"], result["devices"]) == ("cpu", 1)
    assert sum(result["nonzero"].values()) <= 13310
    monkeypatch.setattr(supervision, "_start", None)  # whoever started a run would see it
    main(["reproduce", "table1", *options, *folders])
    assert "2 of 2 runs are done; 0 to go" in capsys.readouterr().out
    assert (tmp_path / "small" / "table1.md").read_text() == table


def test_an_interrupted_run_goes_on_to_the_same_result(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in the networks that have dropout, which draws from the global random state.
    monkeypatch.setattr(
        "lightning_sparse.models.lenet.relu",
        lambda inputs: dropout(inputs.relu(), 0.1, training=torch.is_grad_enabled()),
    )
    whole = training_process.run(SPARSE, data, tmp_path / "whole")
    written = resumable.Progress._write

    def fails(self: resumable.Progress, trainer: Trainer, epochs: int) -> None:
        written(self, trainer, epochs)
        if epochs == 2:
            raise RuntimeError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(resumable.Progress, "_write", fails)
        patched.setattr(resumable, "_SAVE_EVERY", 0.0)
        with pytest.raises(RuntimeError, match="interrupted"):
            training_process.run(SPARSE, data, tmp_path / "parts")
    started: list[int] = []
    monkeypatch.setattr(
        resumable.Progress, "on_train_start", lambda self, trainer, module: started.append(trainer.global_step)
    )
    resumed = training_process.run(SPARSE, data, tmp_path / "parts")
    assert started[0] > 25
    assert without_times(resumed) == without_times(whole)


def test_a_training_that_was_stopped_is_no_result_and_goes_on(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = training_process.run(SPARSE, data, tmp_path / "whole")

    class Stops(resumable.Progress):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    with monkeypatch.context() as patched:
        patched.setattr(resumable, "Progress", Stops)
        patched.setattr(resumable, "_SAVE_EVERY", 0.0)
        with pytest.raises(RuntimeError, match=r"Expected 3 epochs of training; got 2 before it was stopped. Cure"):
            training_process.run(SPARSE, data, tmp_path / "parts")
    assert not SPARSE.result_file(tmp_path / "parts").exists()
    monkeypatch.setattr(resumable.Progress, "state_key", "Stops")
    assert without_times(training_process.run(SPARSE, data, tmp_path / "parts")) == without_times(whole)


@pytest.mark.filterwarnings("ignore:Encountered `nan` values in tensor")
@pytest.mark.parametrize(("config", "epochs"), [("mnist_lenet300_5", 2), ("mnist_lenet300_dense", 3)])
def test_a_run_that_diverges_is_a_result_without_metrics(
    config: str, epochs: int, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Diverges(resumable.Progress):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                next(pl_module.parameters()).data[0, 0] = torch.nan

    monkeypatch.setattr(resumable, "Progress", Diverges)
    experiment = Experiment(Setting(config), 0, SMALL)
    result = training_process.run(experiment, data, tmp_path)
    assert result is not None
    assert (result["diverged"], result["metrics"], result["epochs"]) == (True, {}, epochs)
    assert result["nonzero"] == {}  # NaN is not zero, and would pass for an active weight
    table = reproduction_report.markdown(STUDIES["table1"], MeasuredCells(tmp_path, SMALL))
    assert "| 1 diverged |" in table


@pytest.mark.parametrize("collapses", [False, True])
def test_a_network_that_guesses_at_the_end_of_a_whole_run_has_diverged(
    collapses: bool, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Collapses(resumable.Progress):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            for parameter in pl_module.parameters():
                parameter.data *= not collapses

    monkeypatch.setattr(resumable, "Progress", Collapses)
    short = Experiment(SPARSE.setting, 0, FULL.with_options({"max_epochs": 6}))
    result = training_process.run(short, data, tmp_path)
    assert result is not None
    assert not result["diverged"]  # it is told to be too short to learn anything
    monkeypatch.setattr(Scale, "shortens", False)
    result = training_process.run(short, data, tmp_path / "whole")
    assert result is not None
    assert result["diverged"] == collapses
    assert (result["metrics"]["accuracy"] < 0.2) == collapses


def test_a_run_compiles_its_network_and_notes_how(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    torch_compile = torch.compile

    def compile_as_written(function: Callable[..., Any], mode: str, dynamic: bool) -> Callable[..., Any]:
        modes.append(mode)
        return torch_compile(function, backend="eager", dynamic=dynamic)

    plain = training_process.run(SPARSE, data, tmp_path)
    monkeypatch.setattr(torch, "compile", compile_as_written)
    scale = SMALL.with_options({}, "reduce-overhead")
    compiled = training_process.run(Experiment(SPARSE.setting, 0, scale), data, tmp_path)
    assert modes == ["reduce-overhead"]
    assert compiled is not None
    assert compiled["compile_mode"] == "reduce-overhead"
    assert without_times(compiled)["metrics"] == without_times(plain)["metrics"]


def test_two_processes_train_one_network_on_the_batches_of_one(data: Path, tmp_path: Path) -> None:
    options = ["--trainer.devices=2", "--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--scale=small"]
    folders = ["--data", str(data), "--results", str(tmp_path), "--download=false"]
    main(["reproduce", "table1", "--rows", "mnist_lenet300_5", *options, *folders])
    (file,) = tmp_path.rglob("seed0.json")
    result = json.loads(file.read_text())
    assert (result["device"], result["devices"], result["steps"]) == ("cpu", 2, 75)
    assert "Batches are split evenly over the devices." in (file.parents[1] / "table1.md").read_text()


def test_a_run_uses_other_options_of_the_trainer_and_notes_them(data: Path, tmp_path: Path) -> None:
    options = {"precision": "64-true", "max_epochs": 1}
    other = Experiment(SPARSE.setting, 0, SMALL.with_options(options))
    result = training_process.run(other, data, tmp_path)
    assert result is not None
    assert (result["trainer"], result["epochs"]) == (options, 1)
    assert json.loads(other.result_file(tmp_path).read_text()) == result
    assert [path.name for path in tmp_path.iterdir()] == ["small+max_epochs=1+precision=64-true"]


def test_a_run_whose_checkpoint_is_cut_off_starts_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = SPARSE.work_folder(tmp_path)
    work.mkdir(parents=True)
    (work / "last.ckpt").write_bytes(b"PK\x03\x04 half a checkpoint")
    monkeypatch.setattr(
        resumable.Progress,
        "on_train_start",
        lambda self, trainer, module: (work / "start").write_text(str(trainer.global_step)),
    )
    with pytest.warns(UserWarning, match="is incomplete"):
        assert training_process.run(SPARSE, data, tmp_path) is not None
    assert (work / "start").read_text() == "0"


def test_a_failed_run_is_named_with_its_last_words_and_others_are_finished(tmp_path: Path, data: Path) -> None:
    unknown = Experiment(Setting("mnist_lenet300_5", (("growth", "sideways"),)), 0, SMALL)
    with (
        open_engine() as engine,
        pytest.raises(FailedRunsError, match=r"growth=sideways, seed 0.*log.txt, and start again"),
    ):
        run_missing([unknown, SPARSE], data, tmp_path, engine, Console(quiet=True))
    assert SPARSE.result_file(tmp_path).exists()
    assert not SPARSE.work_folder(tmp_path).exists()
    assert "sideways" in (unknown.work_folder(tmp_path) / "log.txt").read_text()


def test_a_run_that_another_command_is_at_is_waited_for(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "_RETRY_SECONDS", 0.5)
    work = SPARSE.work_folder(tmp_path)
    work.mkdir(parents=True)
    taken = FileLock(work / "lock", thread_local=False)
    taken.acquire()
    asked = threading.Event()
    start = supervision._start

    def start_and_tell(*arguments: Any) -> Any:
        process = start(*arguments)
        asked.set()
        return process

    def release() -> None:
        asked.wait(60)
        time.sleep(1)
        taken.release()

    monkeypatch.setattr(supervision, "_start", start_and_tell)
    other = threading.Thread(target=release)
    other.start()
    with open_engine() as engine:
        run_missing([SPARSE], data, tmp_path, engine, Console(quiet=True))
    other.join()
    assert SPARSE.result_file(tmp_path).exists()


def test_a_result_that_another_command_has_just_written_stays(tmp_path: Path, data: Path) -> None:
    SPARSE.work_folder(tmp_path).mkdir(parents=True)
    SPARSE.result_file(tmp_path).write_text("theirs")
    training_process.main([SPARSE.to_json(), str(data), str(tmp_path)])
    assert SPARSE.result_file(tmp_path).read_text() == "theirs"


def test_a_checkpoint_of_other_options_is_not_resumed(tmp_path: Path) -> None:
    work = tmp_path / "run"
    work.mkdir()
    resumable._forget_others(work, "first")
    (work / "last.ckpt").write_text("of the first")
    resumable._forget_others(work, "first")
    assert (work / "last.ckpt").exists()
    with pytest.warns(UserWarning, match=r"last.ckpt is of a training with other options: the run starts again"):
        resumable._forget_others(work, "second")
    assert not (work / "last.ckpt").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that could be handled")
def test_a_terminated_command_ends_its_runs(tmp_path: Path, data: Path) -> None:
    arguments = ["reproduce", "table1", "--rows", "mnist_lenet300_5", "--seeds", "1", "--data", str(data)]
    with subprocess.Popen(
        [sys.executable, "-m", "lightning_sparse", *arguments, "--results", str(tmp_path), "--download", "false"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as command:
        lock = FULL_RUN.work_folder(tmp_path) / "lock"
        _wait_until(lambda: lock.exists() and _is_held(lock))
        command.terminate()
        assert command.wait(60) == 128 + signal.SIGTERM
    assert not _is_held(lock)
    assert not FULL_RUN.result_file(tmp_path).exists()


def _is_held(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": "mnist_lenet301*"}, r"Expected rows among mnist_lenet300_dense.*got 'mnist_lenet301\*'. Cure"),
        ({"seeds": -1}, r"Expected a number of seeds >= 0; got -1. Cure"),
        ({"jobs": 0}, r"Expected a number of jobs >= 1; got 0. Cure"),
    ],
)
def test_what_can_not_be_run_is_refused_before_anything_runs(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        reproduce("table1", results=tmp_path / "results", data=tmp_path, download=False, **options)
    assert not (tmp_path / "results").exists()


def test_data_that_are_missing_are_reported_once_and_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"MNIST.*Cure"):
        reproduce("table1", rows="mnist_lenet300_5", scale="small", data=tmp_path, results=tmp_path, download=False)
    assert not list(tmp_path.rglob("log.txt"))


def test_any_folder_of_images_serves_for_a_first_look_at_imagenet_and_for_no_more(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(folder / "0.png")
    settings = [Setting("imagenet_resnet50_10")]
    prepare(settings, SMALL, tmp_path, download=True)
    with pytest.raises(ValueError, match=r"Expected the 1000 class folders.*got 2. Cure"):
        prepare(settings, FULL, tmp_path, download=True)


def test_the_model_of_a_result_is_counted_layer_by_layer() -> None:
    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))

    module = Module()
    with torch.no_grad():
        module.model[0].weight[0] = 0
    assert training_process._weight_counts(module, is_finite=True) == {
        "weights": 10,
        "nonzero": {"0.weight": 3, "2.weight": 4},
    }
    assert training_process._weight_counts(module, is_finite=False) == {"weights": 10, "nonzero": {}}


def test_times_add_up_over_interruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"cpu_seconds": 1.0, "seconds": 10.0}
    monkeypatch.setattr(resumable, "_clocks", lambda: dict(now))
    first = resumable.Progress(tmp_path / "progress")
    now |= {"cpu_seconds": 3.0, "seconds": 15.0}
    second = resumable.Progress(tmp_path / "progress")
    second.load_state_dict(first.state_dict())
    now |= {"cpu_seconds": 4.0, "seconds": 22.0}
    assert second.times == {"cpu_seconds": 2.0 + 1.0, "seconds": 5.0 + 7.0}
