"""Engines: each training is made once, the next one when there is room, and none outlives whoever asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from stand_ins import StandIn, environment, is_running, processes, starts, wait_until

from lightning_sparse._version import __version__
from lightning_sparse.experiments.engine import finished as finishing
from lightning_sparse.experiments.engine.engines import Engine, EngineLostError, LocalEngine
from lightning_sparse.experiments.engine.finished import Finished, finished
from lightning_sparse.experiments.engine.options import open_engine
from lightning_sparse.experiments.engine.orders import Order
from lightning_sparse.experiments.engine.supervision import supervise

pytestmark = [
    pytest.mark.usefixtures("stand_ins"),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]


@pytest.fixture(autouse=True)
def _in_quick_succession(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(finishing, "_RETRY_SECONDS", 0.1)


def run(results: Path, *trainings: StandIn, jobs: int = 2) -> list[Finished[StandIn]]:
    with open_engine(jobs=jobs) as engine:
        return list(finished(trainings, engine, results, results))


def order(results: Path, training: StandIn, version: str = __version__) -> Order:
    description = (training.path, training.program, training.to_json())
    return Order(training.name, *description, str(results), str(results), version)


def test_every_training_ends_once_with_its_result(tmp_path: Path) -> None:
    ended = run(tmp_path, *(StandIn(name) for name in "abc"))
    assert sorted(run.training.path for run in ended) == ["a", "b", "c"]
    assert all(run.result["name"] == run.training.path and not run.failure for run in ended)
    assert starts(tmp_path) == ["a", "b", "c"]
    assert not list(tmp_path.glob("*/"))  # logs and checkpoints of finished trainings are gone


def test_a_finished_training_is_not_made_again(tmp_path: Path) -> None:
    run(tmp_path, StandIn("a"))
    assert [run.training.path for run in run(tmp_path, StandIn("a"), StandIn("b"))] == ["a", "b"]
    assert starts(tmp_path) == ["a", "b"]


def test_the_same_training_asked_for_twice_is_made_once(tmp_path: Path) -> None:
    ended = run(tmp_path, StandIn("a", 0.3), StandIn("a", 0.3), jobs=3)
    assert [run.result["name"] for run in ended] == ["a", "a"]
    assert starts(tmp_path) == ["a"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_next_training_is_chosen_when_there_is_room_and_all_results_before_it_are_known(
    jobs: int, tmp_path: Path
) -> None:
    known: list[str] = []
    chosen_knowing: list[int] = []

    def choose() -> Iterator[StandIn]:
        for index in range(5):
            chosen_knowing.append(len(known))
            yield StandIn(str(index), 0.05)

    with open_engine(jobs=jobs) as engine:
        for run in finished(choose(), engine, tmp_path, tmp_path):
            known.append(run.training.path)
    assert chosen_knowing[:jobs] == [0] * jobs
    assert all(index - knowing < jobs for index, knowing in enumerate(chosen_knowing))


def test_no_more_trainings_run_than_there_is_room_for(tmp_path: Path) -> None:
    seen: list[int] = []

    def note(running: Collection[StandIn]) -> None:
        seen.append(len(running))

    with open_engine(jobs=2) as engine:
        list(finished([StandIn(str(index), 0.1) for index in range(5)], engine, tmp_path, tmp_path, note))
    assert max(seen) == 2


def test_a_sampler_may_wait_for_the_next_result(tmp_path: Path) -> None:
    known: list[str] = []

    def choose() -> Iterator[StandIn | None]:
        yield StandIn("first", 0.3)
        while not known:
            yield None
        yield StandIn(f"after-{known[0]}")

    with open_engine(jobs=2) as engine:
        for run in finished(choose(), engine, tmp_path, tmp_path):
            known.append(run.training.path)
    assert known == ["first", "after-first"]


def test_a_sampler_that_waits_for_nothing_is_told(tmp_path: Path) -> None:
    with (
        open_engine() as engine,
        pytest.raises(RuntimeError, match=r"Expected a training, or others that run.*Cure: yield None only while"),
    ):
        list(finished([None], engine, tmp_path, tmp_path))


def test_a_failing_training_says_what_happened_and_the_others_are_made(tmp_path: Path) -> None:
    broken, whole = run(tmp_path, StandIn("a", fails="out of luck"), StandIn("b"), jobs=1)
    assert broken.failure.splitlines()[0] == "before"
    assert broken.failure.splitlines()[-1] == "ValueError: out of luck"
    assert whole.result["name"] == "b"
    assert (tmp_path / "a" / "log.txt").exists()


def test_a_training_that_ends_without_a_word_is_a_failure(tmp_path: Path) -> None:
    (ended,) = run(tmp_path, StandIn("a", program="keyword"))
    assert ended.failure == "nothing; its exit status is 0"


def test_a_training_that_another_command_is_at_is_waited_for_while_others_are_made(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    taken = FileLock(tmp_path / "a" / "lock", thread_local=False)
    taken.acquire()
    names: list[str] = []
    with open_engine(jobs=1) as engine:
        for run in finished([StandIn("a"), StandIn("b"), StandIn("c")], engine, tmp_path, tmp_path):
            names.append(run.training.path)
            if run.training.path == "c":
                taken.release()
    assert names == ["b", "c", "a"]


def test_what_another_command_finishes_meanwhile_is_its_result(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with FileLock(tmp_path / "a" / "lock", thread_local=False), open_engine(jobs=1) as engine:
        runs = finished([StandIn("a"), StandIn("b")], engine, tmp_path, tmp_path)
        assert next(runs).training.path == "b"
        (tmp_path / "a.json").write_text('{"name": "theirs"}')
        assert next(runs).result == {"name": "theirs"}
    assert starts(tmp_path) == ["b"]


def test_trainings_of_other_commands_leave_room_for_the_rest(tmp_path: Path) -> None:
    locks = []
    for name in "abcd":
        (tmp_path / name).mkdir()
        locks.append(FileLock(tmp_path / name / "lock", thread_local=False))
        locks[-1].acquire()
    with open_engine(jobs=1) as engine:
        runs = finished([StandIn(name, 0.1) for name in "abcdefg"], engine, tmp_path, tmp_path)
        assert [next(runs).training.path for _ in range(3)] == ["e", "f", "g"]
        assert starts(tmp_path) == ["e", "f", "g"]  # none was started to find out that others make it
        for lock in locks:
            lock.release()
        assert sorted(run.training.path for run in runs) == ["a", "b", "c", "d"]


def test_without_room_nothing_is_asked_for_in_haste(tmp_path: Path) -> None:
    asked: list[int] = []

    class Full(LocalEngine):
        @property
        def slots(self) -> int:
            asked.append(1)
            return int(len(asked) > 10)

    begin = time.monotonic()
    with Full([{}]) as engine:
        assert [run.result["name"] for run in finished([StandIn("a")], engine, tmp_path, tmp_path)] == ["a"]
    assert time.monotonic() - begin > 0.2


KINDS = {
    "local": lambda: LocalEngine([{}, {}]),
    "threads": lambda: Engine(ThreadPoolExecutor(2), slots=2),
    "processes": lambda: Engine(ProcessPoolExecutor(2, mp_context=get_context("spawn")), slots=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_engine_ends_its_trainings_when_it_is_left_early(kind: str, tmp_path: Path) -> None:
    with KINDS[kind]() as engine:
        runs = finished([StandIn("a"), StandIn("b", 600)], engine, tmp_path, tmp_path)
        assert next(runs).training.path == "a"
        wait_until(lambda: starts(tmp_path) == ["a", "b"])
        runs.close()
        assert not any(map(is_running, processes(tmp_path)))
    assert not list(tmp_path.rglob("cancel.*"))


def test_the_end_of_an_engine_ends_what_still_runs(tmp_path: Path) -> None:
    with open_engine(jobs=2) as engine:
        runs = finished([StandIn("a"), StandIn("b", 600)], engine, tmp_path, tmp_path)
        assert next(runs).training.path == "a"
        wait_until(lambda: starts(tmp_path) == ["a", "b"])
    assert not any(map(is_running, processes(tmp_path)))
    del runs


def test_an_executor_that_refuses_ends_all_in_words(tmp_path: Path) -> None:
    engine = LocalEngine([{}])
    engine._executor.shutdown()
    with pytest.raises(EngineLostError, match=r"got one that refuses them \(RuntimeError: cannot schedule"):
        list(finished([StandIn("a")], engine, tmp_path, tmp_path))


def test_leaving_early_ends_trainings_with_all_that_they_started(tmp_path: Path) -> None:
    with open_engine(jobs=2) as engine:
        runs = finished([StandIn("a"), StandIn("b", 600, starts=True), StandIn("c", 600)], engine, tmp_path, tmp_path)
        with closing(runs):
            assert next(runs).training.path == "a"
            wait_until(lambda: (tmp_path / "b" / "child").exists())
        started = [int(path.name.split(".")[2]) for path in tmp_path.glob("started.*")]
        assert started
        assert not any(map(is_running, started))
        os.kill(int((tmp_path / "b" / "child").read_text()), signal.SIGKILL)  # Ctrl+C leaves a child to its parent
        ended = list(finished([StandIn("d")], engine, tmp_path, tmp_path))
    assert [run.training.path for run in ended] == ["d"]  # the engine serves on


def test_a_training_that_does_not_end_when_asked_to_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_sparse.experiments.engine.supervision._SECONDS_TO_END", 0.3)
    (tmp_path / "deaf.py").write_text(
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nimport stand_in\n"
        "import sys\nstand_in.main(*sys.argv[1:])\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}")
    deaf = StandIn("a", 600, starts=True, program="deaf")
    outcome = supervise(order(tmp_path, deaf), is_cancelled=(tmp_path / "a" / "child").exists)
    assert outcome.state == "cancelled"
    assert len(processes(tmp_path)) == 2
    wait_until(lambda: not any(map(is_running, processes(tmp_path))), 5)


DRIVER = """
import sys
from pathlib import Path
from stand_ins import StandIn
from lightning_sparse.experiments.engine.finished import finished
from lightning_sparse.experiments.engine.options import open_engine
results = Path(sys.argv[1])
with open_engine(jobs=2) as engine:
    list(finished([StandIn("a", 600, starts=True), StandIn("b", 600)], engine, results, results))
"""


def test_no_training_outlives_a_killed_driver(tmp_path: Path) -> None:
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), environment()["PYTHONPATH"]])}
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], env={**os.environ, **paths}) as driver:
        wait_until(lambda: len(processes(tmp_path)) == 3)
        assert all(map(is_running, processes(tmp_path)))
        driver.kill()
    wait_until(lambda: not any(map(is_running, processes(tmp_path))), 5)
    ended = run(tmp_path, StandIn("a"), StandIn("b"))  # and another driver finishes
    assert sorted(run.training.path for run in ended) == ["a", "b"]


def test_a_training_without_a_lifeline_outlives_who_started_it(tmp_path: Path) -> None:
    arguments = [StandIn("a", 600).to_json(), str(tmp_path), str(tmp_path)]
    lone = subprocess.Popen([sys.executable, "-m", "stand_in", *arguments], stdin=subprocess.PIPE, env=environment())
    try:
        wait_until(lambda: processes(tmp_path))
        assert lone.stdin is not None
        lone.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            lone.wait(0.5)
    finally:
        lone.kill()
        lone.wait()


def test_any_executor_will_do(tmp_path: Path) -> None:
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    with Engine(pool, slots=2, environment={"OMP_NUM_THREADS": "3"}) as engine:
        ended = list(finished([StandIn("a"), StandIn("b")], engine, tmp_path, tmp_path))
    assert sorted(run.result["name"] for run in ended) == ["a", "b"]
    assert {run.result["threads"] for run in ended} == {"3"}


def test_an_executor_that_fails_at_a_training_is_a_failure_of_it(tmp_path: Path) -> None:
    class Fails(LocalEngine):
        def _supervise(self, order: Order) -> Any:
            raise OSError(f"no process for {order.name}")

    with Fails([{}]) as engine:
        (ended,) = finished([StandIn("a")], engine, tmp_path, tmp_path)
    assert ended.failure == "OSError: no process for training a"


def test_an_executor_that_gives_up_ends_all(tmp_path: Path) -> None:
    class GivesUp(Executor):
        def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    engine = Engine(GivesUp(), slots=1)
    with pytest.raises(EngineLostError, match=r"Expected an engine that makes .* what is finished is kept"):
        list(finished([StandIn("a")], engine, tmp_path, tmp_path))


def test_another_version_is_not_run(tmp_path: Path) -> None:
    outcome = supervise(order(tmp_path, StandIn("a"), version="0.0.1"))
    assert outcome.state == "failed"
    assert outcome.log_end == f"ordered by lightning_sparse 0.0.1, but here is {__version__}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, r"Expected a number of jobs >= 1; got 0. Cure"),
        ({"threads_per_run": 0}, r"Expected a number of threads per run >= 1; got 0. Cure"),
        ({"gpus_per_run": -1}, r"Expected a number of gpus per run >= 0; got -1. Cure"),
        ({"cluster": "tcp://127.0.0.1:1"}, r"Expected the engine 'dask' for cluster; got the engine 'local'. Cure"),
        ({"engine": "dask"}, r"Expected the address of a scheduler for the engine 'dask'; got None. Cure: --cluster"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_engine(**options)


def test_more_gpus_per_run_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"Expected no more GPUs per run than there are; got 2. Cure"):
        open_engine(gpus_per_run=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with open_engine(gpus_per_run=0) as engine:
        assert isinstance(engine, LocalEngine)
        assert engine._free.get()["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(("options", "threads"), [({}, "7"), ({"threads_per_run": 3}, "3")])
def test_the_number_of_threads_is_the_exported_one_unless_it_is_asked_for(
    options: dict[str, Any], threads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with open_engine(**options) as engine:
        (ended,) = finished([StandIn("a")], engine, tmp_path, tmp_path)
    assert ended.result["threads"] == threads


def test_what_a_worker_of_a_cluster_imports_needs_no_pytorch() -> None:
    modules = ("dask_cluster", "engines", "finished", "lifeline", "orders", "supervision", "writing")
    imports = "; ".join(f"import lightning_sparse.experiments.engine.{module}" for module in modules)
    check = "import sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", f"{imports}; {check}"], check=False).returncode == 0
