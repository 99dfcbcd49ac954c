"""The options of commands that run many trainings: which engine, and how much of it for each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning_sparse.experiments.engine.engines import Engine, LocalEngine
from lightning_sparse.experiments.machine import shares
from lightning_sparse.validation.errors import InvalidValueError


def open_engine(
    engine: Literal["local", "dask"] = "local",
    jobs: int = 1,
    cluster: str | None = None,
    tls: Path | None = None,
    worker_folder: str | None = None,
    gpus_per_run: int | None = None,
    threads_per_run: int | None = None,
    devices: object = 1,
) -> Engine:
    """Return an engine, to be used in a ``with``.

    Args:
        engine: "local" makes runs on this machine, "dask" on the workers of a cluster.
        jobs: Number of runs at the same time on this machine. They take turns at the GPUs (those of
            CUDA_VISIBLE_DEVICES if it is set) and share the machine's cores evenly, unless OMP_NUM_THREADS is set. On a
            cluster there are as many as its workers have threads.
        cluster: Address of a cluster's scheduler, "tcp://HOST:PORT" or "tls://HOST:PORT", or the file that it wrote.
        tls: Folder with the certificates of a cluster: ca.pem, cert.pem and key.pem.
        worker_folder: Folder on a cluster's workers for runs in progress, if they can't see the folder of results.
        gpus_per_run: Number of GPUs of each run. Default: as many as the Trainer's devices, and on a cluster none.
        threads_per_run: Number of threads of each run. Default: cores are shared evenly.
        devices: The Trainer's option of that name in these runs.

    Raises:
        ValueError: If an option is outside its range, or belongs to the other engine.
    """
    _check(jobs=(jobs, 1), gpus_per_run=(gpus_per_run, 0), threads_per_run=(threads_per_run, 1))
    if engine == "local":
        _check_none_of_a_cluster(cluster=cluster, tls=tls, worker_folder=worker_folder)
        return LocalEngine(_local_shares(jobs, gpus_per_run, threads_per_run, devices))
    if cluster is None:
        raise InvalidValueError(
            expected="the address of a scheduler for the engine 'dask'",
            got=None,
            cure="--cluster tcp://HOST:PORT, or the file that the scheduler wrote",
        )
    from lightning_sparse.experiments.engine.dask_cluster import DaskEngine

    return DaskEngine(
        cluster, tls=tls, gpus_per_run=gpus_per_run or 0, threads_per_run=threads_per_run, folder=worker_folder
    )


def _local_shares(jobs: int, gpus: int | None, threads: int | None, devices: object) -> list[dict[str, str]]:
    found = shares(jobs, devices if gpus is None else gpus, threads)
    if gpus == 0:
        return [{**share, "CUDA_VISIBLE_DEVICES": ""} for share in found]
    if gpus and any("CUDA_VISIBLE_DEVICES" not in share for share in found):
        raise InvalidValueError(
            expected="no more GPUs per run than there are", got=f"{gpus}", cure="fewer GPUs per run, or 0 for none"
        )
    return found


def _check(**numbers: tuple[int | None, int]) -> None:
    for name, (value, least) in numbers.items():
        if value is not None and value < least:
            raise InvalidValueError(
                expected=f"a number of {name.replace('_per_run', ' per run')} >= {least}",
                got=value,
                cure="the number of cores, at most" if name == "jobs" else "leave it out",
            )


def _check_none_of_a_cluster(**options: object) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InvalidValueError(
            expected=f"the engine 'dask' for {', '.join(given)}", got="the engine 'local'", cure="--engine dask"
        )
