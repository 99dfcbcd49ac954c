"""Commands that share a folder, runs that share a machine: what is done is not begun again, and who gets which GPU."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from lightning_sparse.cli import main
from lightning_sparse.experiments import runner
from lightning_sparse.experiments.machine import shares
from lightning_sparse.experiments.runner import FailedRunsError, run_missing
from lightning_sparse.experiments.setting import SMALL, Experiment, Setting
from lightning_sparse.reproduction import command

FIRST, SECOND, THIRD = (Experiment(Setting("mnist_lenet300_5"), seed, SMALL) for seed in range(3))


class Processes:
    """Stands for subprocess.Popen: notes what is started, does something then, and is over at once.

    Args:
        does: Function that is called when an experiment is started.
        status: Exit status of its process.
    """

    def __init__(self, does: Callable[[Experiment], object], status: int = 0) -> None:
        self.does, self.returncode = does, status
        self.started: list[int] = []
        self.environments: list[dict[str, str]] = []

    def __call__(self, command: list[str], env: dict[str, str], **options: Any) -> Processes:
        experiment = Experiment.from_json(command[3])
        assert command[:3] == [sys.executable, "-m", "lightning_sparse.experiments.worker"]
        self.started.append(experiment.seed)
        self.environments.append(env)
        self.does(experiment)
        return self

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Processes]:
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0)

    def replace(does: Callable[[Experiment], object], status: int = 0) -> Processes:
        processes = Processes(does, status)
        monkeypatch.setattr(subprocess, "Popen", processes)
        return processes

    return replace


def run(results: Path, *experiments: Experiment, jobs: int = 1) -> str:
    console = Console(record=True, quiet=False, width=200)
    run_missing(experiments, results / "data", results, jobs, console)
    return console.export_text()


def finish(results: Path) -> Callable[[Experiment], object]:
    def write(experiment: Experiment) -> None:
        experiment.result_file(results).parent.mkdir(parents=True, exist_ok=True)
        experiment.result_file(results).write_text("{}")

    return write


def test_a_run_that_another_command_finishes_meanwhile_is_not_begun(tmp_path: Path, start: Any) -> None:
    done = finish(tmp_path)
    processes = start(lambda experiment: (done(experiment), done(SECOND)))
    run(tmp_path, FIRST, SECOND, THIRD)
    assert processes.started == [0, 2]


def test_each_missing_run_is_begun_once_in_order(tmp_path: Path, start: Any) -> None:
    finish(tmp_path)(SECOND)
    processes = start(finish(tmp_path))
    assert "1 of 3 runs are done; 2 to go" in run(tmp_path, FIRST, SECOND, THIRD)
    assert processes.started == [0, 2]


def test_the_end_of_each_run_is_told(tmp_path: Path, start: Any) -> None:
    start(finish(tmp_path))
    told: list[int] = []
    console = Console(quiet=True)
    files = [experiment.result_file(tmp_path) for experiment in (FIRST, SECOND)]
    run_missing(
        [FIRST, SECOND], tmp_path, tmp_path, 1, console, lambda: told.append(sum(file.exists() for file in files))
    )
    assert told == [1, 2]


@pytest.mark.parametrize("error", [OSError("the disk is full [1]"), ValueError("Expected the result of a run")])
def test_what_fails_between_runs_ends_none(error: Exception, tmp_path: Path, start: Any) -> None:
    processes = start(finish(tmp_path))
    console = Console(record=True, quiet=False, width=200)

    def fail() -> None:
        raise error

    run_missing([FIRST, SECOND], tmp_path, tmp_path, 1, console, fail)
    assert processes.started == [0, 1]
    assert console.export_text().count(f"not written: {error}") == 2


def test_a_work_folder_that_another_command_has_removed_is_no_failure(tmp_path: Path, start: Any) -> None:
    done = finish(tmp_path)
    start(lambda experiment: (done(experiment), shutil.rmtree(experiment.work_folder(tmp_path))))
    run(tmp_path, FIRST)
    assert FIRST.result_file(tmp_path).exists()


def test_a_run_that_failed_here_and_was_finished_by_another_command_is_no_failure(tmp_path: Path, start: Any) -> None:
    start(finish(tmp_path), status=1)
    run(tmp_path, FIRST)
    assert not FIRST.work_folder(tmp_path).exists()


def test_a_run_without_a_result_is_a_failure_whatever_its_status(tmp_path: Path, start: Any) -> None:
    start(lambda experiment: None)
    with pytest.raises(FailedRunsError, match="mnist_lenet300_5, seed 0"):
        run(tmp_path, FIRST)


def test_a_failure_is_described_though_its_log_is_gone(tmp_path: Path, start: Any) -> None:
    start(lambda experiment: shutil.rmtree(experiment.work_folder(tmp_path)), status=1)
    with pytest.raises(FailedRunsError, match=r"seed 0\. The first ends with: nothing"):
        run(tmp_path, FIRST)


def test_a_folder_that_is_removed_while_it_is_opened_is_made_again(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = Path.mkdir, []

    def make_and_lose(path: Path, *args: Any, **options: Any) -> None:
        make(path, *args, **options)
        if path == FIRST.work_folder(tmp_path) and not made:
            made.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", make_and_lose)
    start(finish(tmp_path))
    run(tmp_path, FIRST)
    assert made


def test_each_process_is_told_its_share_of_the_machine(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [{"CUDA_VISIBLE_DEVICES": "5"}, {"CUDA_VISIBLE_DEVICES": "6"}]
    asked: list[Any] = []
    monkeypatch.setattr(runner, "shares", lambda *arguments: asked.append(arguments) or list(given))
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    processes = start(finish(tmp_path))
    scale = SMALL.with_options({"devices": 4})
    run(tmp_path, *(Experiment(FIRST.setting, seed, scale) for seed in range(4)), jobs=2)
    assert asked == [(2, 4)]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in processes.environments] == ["5", "6"] * 2
    assert {environment["SOMETHING_ELSE"] for environment in processes.environments} == {"kept"}


SLEEPER = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, {})
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
on_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


def sleeper(on_interrupt: str) -> subprocess.Popen[bytes]:
    """Start a process that starts another one, writes its number, and waits."""
    source = SLEEPER.format(on_interrupt)
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, start_new_session=True)


def written_by(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@on_posix
def test_ctrl_c_ends_the_runs_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    children: list[int] = []

    def start(*arguments: Any) -> runner._Job:
        started.append(sleeper("lambda *_: sys.exit(7)"))
        return runner._Job(arguments[0], started[-1], arguments[-1].add_task("asleep"), {})

    def press_ctrl_c(seconds: float) -> None:
        children.extend(written_by(process) for process in started)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_start", start)
    monkeypatch.setattr(runner, "time", SimpleNamespace(sleep=press_ctrl_c, monotonic=time.monotonic))
    monkeypatch.setattr(command, "prepare", lambda *arguments, **options: None)
    try:
        with pytest.raises(SystemExit) as stop:
            main(["reproduce", "table1", "--rows=mnist_lenet300_5", "--jobs=2", f"--results={tmp_path}"])
    finally:
        for process, child in zip(started, children, strict=True):
            os.kill(child, signal.SIGKILL)
            if process.stdout is not None:
                process.stdout.close()
    assert stop.value.code == 128 + signal.SIGINT
    assert capsys.readouterr().err.endswith("lightning-sparse: interrupted; the same command resumes\n")
    assert [process.returncode for process in started] == [7, 7]
    assert (tmp_path / "full" / "table1.md").exists()


@on_posix
def test_a_run_that_does_not_end_is_killed_with_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_SECONDS_TO_END", 0.2)
    process = sleeper("signal.SIG_IGN")
    written_by(process)
    runner._end([process])
    assert process.returncode == -signal.SIGKILL
    assert process.stdout is not None
    with process.stdout as written:
        assert select.select([written], [], [], 10)[0]
        assert written.read() == b""  # ends with the last process that could write


@on_posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_is_an_exception_while_runs_are_under_way_and_not_afterwards(name: str) -> None:
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # a shell that is left running ignores SIGHUP
    try:
        with pytest.raises(SystemExit) as stop, runner._signals_raise():
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
        with runner._signals_raise():
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
