"""Runs that share a machine or a folder: what is told after each, and who gets which GPU and how many threads."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from stand_ins import StandIn, starts

from lightning_sparse.cli import main
from lightning_sparse.experiments import runner
from lightning_sparse.experiments.engine import finished as finishing
from lightning_sparse.experiments.engine.options import open_engine
from lightning_sparse.experiments.engine.signals import ending_signals_raise
from lightning_sparse.experiments.machine import shares
from lightning_sparse.experiments.runner import FailedRunsError, run_missing
from lightning_sparse.reproduction import command

A, B = StandIn("a"), StandIn("b")


@pytest.fixture(autouse=True)
def _in_quick_succession(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "_POLL_SECONDS", 0.05)


def run(results: Path, *trainings: StandIn, after_each: Callable[[], object] = lambda: None) -> str:
    console = Console(record=True, quiet=False, width=200)
    with open_engine() as engine:
        run_missing(trainings, results / "data", results, engine, console, after_each)
    return console.export_text()


@pytest.mark.usefixtures("stand_ins")
def test_only_missing_runs_are_begun_and_counted(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("{}")
    assert "1 of 3 runs are done; 2 to go, 1 at a time" in run(tmp_path, A, B, StandIn("c"))
    assert starts(tmp_path) == ["a", "c"]


@pytest.mark.usefixtures("stand_ins")
def test_the_end_of_each_run_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    run(tmp_path, A, B, after_each=lambda: told.append(len(list(tmp_path.glob("*.json")))))
    assert told == [1, 2]


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("error", [OSError("the disk is full [1]"), ValueError("Expected the result of a run")])
def test_what_fails_between_runs_ends_none(error: Exception, tmp_path: Path) -> None:
    def fail() -> None:
        raise error

    text = run(tmp_path, A, B, after_each=fail)
    assert starts(tmp_path) == ["a", "b"]
    assert text.count(f"not written: {error}") == 2


@pytest.mark.usefixtures("stand_ins")
def test_runs_that_fail_are_named_with_the_last_words_of_the_first(tmp_path: Path) -> None:
    broken = [StandIn("a", fails="out of luck"), StandIn("c", fails="too late")]
    message = rf"Expected 2 more results; got errors in training a; training c.*out of luck. Cure: see {tmp_path}/a/log"
    with pytest.raises(FailedRunsError, match=message):
        run(tmp_path, broken[0], B, broken[1])
    assert (tmp_path / "b.json").exists()


def test_bars_are_those_of_the_runs_under_way(tmp_path: Path) -> None:
    with runner._progress(Console(quiet=True)) as progress:
        shown = runner._Shown(progress, tmp_path, 1, 4)
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "progress").write_text("3 7")
        shown.show([A, B])
        tasks = {task.description: (task.completed, task.total) for task in progress.tasks}
        assert tasks == {"all runs": (1, 4), "training a": (3, 7), "training b": (0, None)}
        shown.count()
        shown.show([B])
        assert [(task.description, task.completed) for task in progress.tasks] == [("all runs", 2), ("training b", 0)]


on_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@on_posix
def test_ctrl_c_says_how_to_go_on_and_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press_ctrl_c(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner._Shown, "show", press_ctrl_c)
    monkeypatch.setattr(command, "prepare", lambda *arguments, **options: None)
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "table1", "--rows=mnist_lenet300_5", "--jobs=2", f"--results={tmp_path}"])
    assert stop.value.code == 128 + signal.SIGINT
    assert capsys.readouterr().err.endswith("lightning-sparse: interrupted; the same command resumes\n")
    assert (tmp_path / "full" / "table1.md").exists()


@on_posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_is_an_exception_while_runs_are_under_way_and_not_afterwards(name: str) -> None:
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # a shell that is left running ignores SIGHUP
    try:
        with pytest.raises(SystemExit) as stop, ending_signals_raise():
            signal.raise_signal(number)
        after = signal.getsignal(number)
    finally:
        signal.signal(number, before)
    assert stop.value.code == 128 + number
    assert after == signal.SIG_DFL


@on_posix
def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_signals_raise():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make a machine of some GPUs and cores, and environment variables that the user has exported."""

    def make(gpus: int, cores: int = 8, **exported: str) -> None:
        for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in exported.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)

    return make


def gpus(jobs: int, devices: object = 1) -> list[str | None]:
    return [share.get("CUDA_VISIBLE_DEVICES") for share in shares(jobs, devices)]


@pytest.mark.parametrize(
    ("jobs", "devices", "expected"),
    [
        (1, 1, ["0"]),
        (4, 1, ["0", "1", "2", "3"]),
        (6, 1, ["0", "1", "2", "3", "0", "1"]),
        (3, 2, ["0,1", "2,3", "0,1"]),
        (2, "2", ["0,1", "2,3"]),
        (2, 3, ["0,1,2", "0,1,2"]),  # the fourth can't make up a group
        (2, 5, [None, None]),  # Lightning says what is missing
        (2, "auto", [None, None]),
        (2, -1, [None, None]),
        (2, [0, 1], [None, None]),
        (2, "0,1", [None, None]),
        (2, 0, [None, None]),
    ],
)
def test_gpus_are_dealt_out_in_turn(jobs: int, devices: object, expected: list[str | None], machine: Any) -> None:
    machine(4)
    assert gpus(jobs, devices) == expected


@pytest.mark.parametrize(
    ("exported", "visible", "expected"),
    [
        ("2,3", 2, ["2", "3", "2"]),
        (" 1 , 0 ", 2, ["1", "0", "1"]),
        ("GPU-8f3a,GPU-1c2d", 2, ["GPU-8f3a", "GPU-1c2d", "GPU-8f3a"]),
        ("0,7", 1, ["0", "0", "0"]),  # the second isn't there
        ("", 0, [None, None, None]),
        ("-1", 0, [None, None, None]),
    ],
)
def test_the_gpus_that_the_user_has_chosen_are_dealt_out(
    exported: str, visible: int, expected: list[str | None], machine: Any
) -> None:
    machine(visible, CUDA_VISIBLE_DEVICES=exported)
    assert gpus(3) == expected


def test_cores_are_counted_where_the_system_does_not_say_which_may_be_used(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(0)
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert shares(2) == [{"OMP_NUM_THREADS": "3"}] * 2


def test_nothing_is_dealt_out_where_there_is_no_gpu(machine: Any) -> None:
    machine(0)
    assert shares(2) == [{"OMP_NUM_THREADS": "4"}] * 2


@pytest.mark.parametrize(
    ("jobs", "devices", "exported", "expected"),
    [(1, 1, {}, "8"), (3, 1, {}, "2"), (2, 2, {}, "2"), (20, 1, {}, "1"), (2, 1, {"OMP_NUM_THREADS": "3"}, None)],
)
def test_cores_are_divided_unless_the_user_has_said_how_many(
    jobs: int, devices: int, exported: dict[str, str], expected: str | None, machine: Any
) -> None:
    machine(0, **exported)
    assert {share.get("OMP_NUM_THREADS") for share in shares(jobs, devices)} == {expected}


def test_threads_that_are_asked_for_are_those_of_all_libraries(machine: Any) -> None:
    machine(0, OMP_NUM_THREADS="3")
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    assert shares(2, threads=5) == [dict.fromkeys(names, "5")] * 2
