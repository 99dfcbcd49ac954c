"""A cluster of a scheduler and two workers, each a command of its own on 127.0.0.1."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from clusters import Cluster, cluster, engine_of, once
from stand_in import has_torch
from stand_ins import StandIn, environment, is_running, processes, starts, wait_until

from lightning_sparse.experiments.engine import dask_cluster
from lightning_sparse.experiments.engine import finished as finishing
from lightning_sparse.experiments.engine.dask_cluster import DaskEngine
from lightning_sparse.experiments.engine.engines import EngineLostError
from lightning_sparse.experiments.engine.finished import finished
from lightning_sparse.experiments.engine.options import open_engine

pytestmark = [
    pytest.mark.usefixtures("stand_ins"),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
    pytest.mark.filterwarnings("default"),  # Dask's own
]


PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(autouse=True)
def _in_quick_succession(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(finishing, "_RETRY_SECONDS", 0.2)


def test_every_training_is_made_once_on_some_worker(two_workers: Cluster, tmp_path: Path) -> None:
    trainings = [StandIn(str(index), 0.05) for index in range(6)]
    with engine_of(two_workers, threads_per_run=3) as engine:
        ended = list(finished(trainings, engine, tmp_path, tmp_path))
        again = list(finished(trainings, engine, tmp_path, tmp_path))
    names = [str(index) for index in range(6)]
    assert sorted(run.result["name"] for run in ended) == sorted(run.result["name"] for run in again) == names
    assert {run.result["threads"] for run in ended} == {"3"}
    assert starts(tmp_path) == names


def test_cores_are_shared_evenly_unless_threads_are_asked_for(two_workers: Cluster, tmp_path: Path) -> None:
    with engine_of(two_workers) as engine:
        (ended,) = finished([StandIn("a")], engine, tmp_path, tmp_path)
    assert ended.result["threads"] == str(max(1, dask_cluster._cores_here() // 2))


def test_workers_import_no_pytorch_and_listen_nowhere_else(two_workers: Cluster, tmp_path: Path) -> None:
    with engine_of(two_workers) as engine:
        list(finished([StandIn("a"), StandIn("b")], engine, tmp_path, tmp_path))
        assert not any(engine._client.run(has_torch).values())
    listening = {
        connection.laddr.ip
        for command in two_workers.commands.values()
        for process in (psutil.Process(command.pid), *psutil.Process(command.pid).children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_failing_run_brings_the_end_of_its_log_and_the_others_are_made(two_workers: Cluster, tmp_path: Path) -> None:
    with engine_of(two_workers) as engine:
        runs = finished([StandIn("a", fails="out of luck"), StandIn("b")], engine, tmp_path, tmp_path)
        ended = {run.training.path: run for run in runs}
    assert ended["a"].failure.endswith("ValueError: out of luck")
    assert ended["b"].result["name"] == "b"


def test_without_a_shared_folder_results_come_back_and_are_not_made_again(two_workers: Cluster, tmp_path: Path) -> None:
    with engine_of(two_workers, worker_folder="runs") as engine:
        ended = list(finished([StandIn("far-1"), StandIn("far-2")], engine, tmp_path, tmp_path))
    assert sorted(run.result["name"] for run in ended) == ["far-1", "far-2"]
    assert {path.name for path in tmp_path.iterdir()} == {"far-1.json", "far-2.json"}
    assert len(list(two_workers.folder.glob("*/runs/*/started.far-*"))) == 2


def test_without_a_shared_folder_results_of_other_orders_are_not_taken(two_workers: Cluster, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with engine_of(two_workers, worker_folder="runs", threads_per_run=1) as engine:
        list(finished([StandIn("again")], engine, first, first))
    with engine_of(two_workers, worker_folder="runs", threads_per_run=2) as engine:
        (other,) = finished([StandIn("again")], engine, second, second)
        (changed,) = finished([StandIn("again", starts=True)], engine, first, tmp_path / "third")
    assert other.result["threads"] == changed.result["threads"] == "2"


def test_leaving_early_ends_the_trainings_on_all_workers(two_workers: Cluster, tmp_path: Path) -> None:
    def press_ctrl_c() -> None:
        raise KeyboardInterrupt

    with engine_of(two_workers) as engine:
        watch = once(lambda: len(processes(tmp_path)) == 2, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            list(finished([StandIn("a", 600), StandIn("b", 600)], engine, tmp_path, tmp_path, watch))
    assert len(processes(tmp_path)) == 2
    wait_until(lambda: not any(map(is_running, processes(tmp_path))), 5)


DRIVER = """
import sys
from pathlib import Path
from clusters import Cluster, cluster, engine_of, once
from stand_in import has_torch
from stand_ins import StandIn
from lightning_sparse.experiments.engine.finished import finished
from lightning_sparse.experiments.engine.options import open_engine
results = Path(sys.argv[1])
with open_engine("dask", cluster=sys.argv[2]) as engine:
    list(finished([StandIn("a", 600), StandIn("b", 600)], engine, results, results))
"""


def test_no_training_is_left_of_a_killed_driver_and_another_one_finishes(two_workers: Cluster, tmp_path: Path) -> None:
    places = os.pathsep.join([str(Path(__file__).parent), environment()["PYTHONPATH"]])
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), two_workers.file], env={**os.environ, "PYTHONPATH": places}
    )
    wait_until(lambda: len(processes(tmp_path)) == 2)
    driver.kill()
    driver.wait()
    wait_until(lambda: not any(map(is_running, processes(tmp_path))), 5)
    with engine_of(two_workers) as engine:
        ended = list(finished([StandIn("a"), StandIn("b")], engine, tmp_path, tmp_path))
    assert sorted(run.result["name"] for run in ended) == ["a", "b"]


def test_workers_with_another_version_are_refused(
    two_workers: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "__version__", "0.0.1")
    with pytest.raises(ValueError, match=r"Expected lightning_sparse 0.0.1 on every worker; got .*Cure: install"):
        DaskEngine(two_workers.file)


def test_more_devices_than_any_worker_has_are_refused(two_workers: Cluster) -> None:
    with pytest.raises(ValueError, match=r"Expected a worker with 2 GPUs for a run; got at most 0, as .*Cure: fewer"):
        open_engine("dask", cluster=two_workers.file, gpus_per_run=2)


@pytest.mark.parametrize("address", ["tcp://10.0.0.3:8786", "tcp://scheduler:8786", "tcp://[fe80::1]:8786"])
def test_a_scheduler_that_others_can_reach_without_a_certificate_is_warned_of(address: str) -> None:
    with pytest.warns(UserWarning, match=r"Expected a scheduler that asks for certificates; got tcp.* It runs what"):
        dask_cluster._warn_if_open(address)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:8786", "tcp://[::1]:8786", "tcp://localhost:1", "tls://10.0.0.3:8786"]
)
def test_a_scheduler_that_others_can_not_reach_is_not(address: str) -> None:
    dask_cluster._warn_if_open(address)


def test_a_scheduler_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "_ANSWERS_WITHIN", 0.5)
    with pytest.raises(ValueError, match=r"Expected a Dask scheduler at tcp://127.0.0.1:9; got no answer .*Cure"):
        open_engine("dask", cluster="tcp://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match=r"Expected the file of a scheduler at .*; got none. Cure"):
        open_engine("dask", cluster=str(tmp_path / "scheduler.json"))


def test_a_scheduler_without_workers_is_told_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "_WORKER_WITHIN", 0.5)
    started = Cluster(tmp_path)
    try:
        started.start("scheduler", "scheduler", "--port=0")
        wait_until(Path(started.file).exists)
        with pytest.raises(ValueError, match=r"Expected a worker at the scheduler; got none within 0.5 seconds. Cure"):
            open_engine("dask", cluster=started.file)
    finally:
        started.kill("scheduler")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates by openssl")
def test_with_certificates_a_cluster_serves_those_who_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "_ANSWERS_WITHIN", 10)
    certificates, results = tmp_path / "certificates", tmp_path / "results"
    make_certificates(certificates)
    results.mkdir()
    options = [f"--tls-{option}={certificates / name}" for option, name in CERTIFICATES.items()]
    started = Cluster(tmp_path)
    try:
        started.start("scheduler", "scheduler", "--port=0", "--protocol=tls", *options)
        wait_until(Path(started.file).exists)
        started.start_worker("worker", *options)
        with open_engine("dask", cluster=started.file, tls=certificates) as engine:
            (ended,) = finished([StandIn("a")], engine, results, results)
        assert ended.result["name"] == "a"
        with pytest.raises(ValueError, match=r"Expected a Dask scheduler at .*and --tls"):
            open_engine("dask", cluster=started.file)
    finally:
        for name in list(started.commands):
            started.kill(name)
    (certificates / "key.pem").unlink()
    with pytest.raises(FileNotFoundError, match=r"Expected ca.pem, cert.pem and key.pem in .*; got no key.pem. Cure"):
        open_engine("dask", cluster=started.file, tls=certificates)


CERTIFICATES = {"ca-file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


def make_certificates(folder: Path) -> None:
    """Make an authority and a certificate that it has signed, as the page about clusters shows."""
    folder.mkdir()
    commands = re.findall(r"^(openssl .*)$", PAGE.read_text(), re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        subprocess.run(shlex.split(command), cwd=folder, check=True, capture_output=True)


def test_a_lost_worker_and_a_lost_scheduler(tmp_path: Path) -> None:
    # One cluster for both harms, as its start takes seconds.
    results = tmp_path / "results"
    results.mkdir()
    with cluster(tmp_path, "--resources", "GPU=2") as started, engine_of(started, gpus_per_run=2) as engine:
        both_run = once(lambda: len(starts(results)) == 2, lambda: started.kill("first"))
        ended = list(finished([StandIn("a", 2), StandIn("b", 2)], engine, results, results, both_run))
        assert sorted(run.result["name"] for run in ended) == ["a", "b"]
        assert len(starts(results)) == 3  # that of the killed worker went on elsewhere
        assert not any(map(is_running, processes(results)))
        runs = once(lambda: "c" in starts(results), lambda: started.kill("scheduler"))
        with pytest.raises(EngineLostError, match=r"as a cluster does whose scheduler has ended"):
            list(finished([StandIn("c", 600), StandIn("d"), StandIn("e")], engine, results, results, runs))
        wait_until(lambda: not any(map(is_running, processes(results))), 30)
        with pytest.raises(EngineLostError):
            list(finished([StandIn("f")], engine, results, results))  # nothing runs, and nothing can
