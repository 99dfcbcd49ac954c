"""An engine on many machines: a Dask scheduler and its workers, which start trainings and wait for them.

Whoever reaches a scheduler can run code on its workers: `docs/clusters.md` says how to start one that listens to this
machine only, or to those that have its certificate.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import replace
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar
from urllib.parse import urlsplit

from lightning_sparse._version import __version__
from lightning_sparse.experiments.engine.engines import Engine, EngineLostError
from lightning_sparse.experiments.engine.orders import Order, Outcome
from lightning_sparse.experiments.engine.supervision import THREAD_VARIABLES, supervise
from lightning_sparse.validation.errors import InvalidValueError, MissingFileError, MissingPackageError

# Seconds until a scheduler must answer, and until the first worker must be there.
_ANSWERS_WITHIN, _WORKER_WITHIN = 30, 300
# Files of a folder with certificates.
_AUTHORITY, _CERTIFICATE, _KEY = "ca.pem", "cert.pem", "key.pem"


class DaskEngine(Engine):
    """Makes trainings on a Dask cluster: as many at the same time as its workers have threads.

    Args:
        address: Address of the scheduler, `tcp://HOST:PORT` or `tls://HOST:PORT`, or the file that it wrote
            (`--scheduler-file`).
        tls: Folder with `ca.pem`, `cert.pem` and `key.pem`, by which scheduler, workers and this process know each
            other. None: without.
        gpus_per_run: Number of GPUs of a training, >= 0: workers state theirs by `--resources GPU=N`.
        threads_per_run: Number of threads of a training. Default: the cores of a machine, shared evenly among the
            trainings that its workers make at the same time.
        folder: Folder on the workers for trainings in progress, if they can't see the folder of results; a relative
            one is below that in which a worker was started.

    Raises:
        ModuleNotFoundError: If the package `distributed` is not installed.
        ValueError: If no scheduler answers, no worker comes, one has another version of this package, or none has
            enough GPUs.
        FileNotFoundError: If a certificate is missing.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Path | None = None,
        gpus_per_run: int = 0,
        threads_per_run: int | None = None,
        folder: str | None = None,
    ) -> None:
        self._client = _connect(address, tls)
        self._gpus, self._folder, self._threads = gpus_per_run, folder, threads_per_run
        self._idle_since: float | None = None
        try:
            _warn_if_open(self._client.scheduler_info()["address"])
            _wait_for_worker(self._client)
            self._check_versions()
            self._check_devices()
        except BaseException:
            self._client.close()
            raise
        resources = {"GPU": gpus_per_run} if gpus_per_run else None
        executor = self._client.get_executor(pure=False, resources=resources)
        super().__init__(executor, 1)

    @property
    def slots(self) -> int:
        """Number of trainings for which there is room; workers may come and go."""
        slots = sum(map(self._slots_of, self._workers()))
        if slots:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > _WORKER_WITHIN:
            warnings.warn(f"No worker has had room for {_WORKER_WITHIN} seconds; waiting for one.", stacklevel=2)
            self._idle_since = None
        return slots

    def _workers(self) -> list[Any]:
        """Return what the scheduler knows of its workers, now.

        Raises:
            EngineLostError: If it is gone: Dask then tells of nobody.
        """
        found = self._client.scheduler_info(n_workers=-1) if self._client.status == "running" else {}
        if "workers" not in found:
            raise EngineLostError("one that doesn't answer")
        return list(found["workers"].values())

    def _slots_of(self, worker: Mapping[str, Any]) -> int:
        threads = int(worker["nthreads"])
        return min(threads, _gpus(worker) // self._gpus) if self._gpus else threads

    def _start(self, order: Order) -> Future[Outcome]:
        """Start a training on some worker; on another one if that is lost."""
        slots: dict[str, int] = {}
        for worker in self._workers():
            slots[worker["host"]] = slots.get(worker["host"], 0) + self._slots_of(worker)
        return self._executor.submit(supervise_on_worker, order, self._threads or slots, self._folder)

    def cancel(self, futures: Collection[Future[Outcome]]) -> None:
        """Tell the workers to end trainings; they do so within a second, or are killed after ten."""
        if self._client.status == "running":
            for future in futures:
                future.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the cluster, which stays."""
        self._client.close()

    def _check_versions(self) -> None:
        others = {
            worker: version for worker, version in self._client.run(_version_here).items() if version != __version__
        }
        if others:
            raise InvalidValueError(
                expected=f"lightning_sparse {__version__} on every worker",
                got=", ".join(f"{version} on {worker}" for worker, version in others.items()),
                cure="install the same version everywhere and start the workers again: they keep what they imported",
            )

    def _check_devices(self) -> None:
        most = max(map(_gpus, self._workers()), default=0)
        if self._gpus > most:
            raise InvalidValueError(
                expected=f"a worker with {self._gpus} GPUs for a run",
                got=f"at most {most}" + ("" if most else ", as workers state by --resources GPU=N"),
                cure="fewer GPUs per run, or workers with `--resources GPU=N` and N GPUs in CUDA_VISIBLE_DEVICES",
            )


def _connect(address: str, tls: Path | None) -> Any:
    try:
        distributed: Any = import_module("distributed")
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            expected="the package `distributed` for a cluster",
            got=str(error),
            cure="pip install 'lightning_sparse[cluster]'",
            name="distributed",
        ) from error
    secured: dict[str, Any] = {"security": distributed.Security(**_certificates(tls))} if tls is not None else {}
    place = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    if "scheduler_file" in place and not Path(address).exists():
        raise MissingFileError(
            expected=f"the file of a scheduler at {address}", got="none", cure="dask scheduler --scheduler-file FILE"
        )
    try:
        return distributed.Client(**place, **secured, timeout=_ANSWERS_WITHIN, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise InvalidValueError(
            expected=f"a Dask scheduler at {address}",
            got=f"no answer ({error})",
            cure="start one, or give its address as tcp://HOST:PORT (with certificates: tls://HOST:PORT and --tls)",
        ) from error


def _certificates(folder: Path) -> dict[str, Any]:
    for name in (_AUTHORITY, _CERTIFICATE, _KEY):
        if not (folder / name).exists():
            raise MissingFileError(
                expected=f"{_AUTHORITY}, {_CERTIFICATE} and {_KEY} in {folder}",
                got=f"no {name}",
                cure="see docs/clusters.md for how to make them",
            )
    return {
        "require_encryption": True,
        "tls_ca_file": str(folder / _AUTHORITY),
        "tls_client_cert": str(folder / _CERTIFICATE),
        "tls_client_key": str(folder / _KEY),
    }


def _warn_if_open(address: str) -> None:
    """Warn of a scheduler that other machines can reach without a certificate."""
    parts = urlsplit(address)
    if parts.scheme != "tls" and not _is_local(parts.hostname or ""):
        warnings.warn(
            f"Expected a scheduler that asks for certificates; got {address}, which other machines can reach. It runs "
            "whatever it is sent. Cure: start it with --tls-ca-file, --tls-cert and --tls-key, or on 127.0.0.1.",
            stacklevel=3,
        )


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wait_for_worker(client: Any) -> None:
    try:
        client.wait_for_workers(1, timeout=_WORKER_WITHIN)
    except TimeoutError as error:
        raise InvalidValueError(
            expected="a worker at the scheduler",
            got=f"none within {_WORKER_WITHIN} seconds",
            cure="start some: dask worker ADDRESS",
        ) from error


def _gpus(worker: Mapping[str, Any]) -> int:
    return int(worker["resources"].get("GPU", 0))


def _version_here() -> str:
    return __version__


def _cores_here() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def supervise_on_worker(order: Order, threads: int | Mapping[str, int], folder: str | None) -> Outcome:
    """Make a training on this worker of a cluster.

    Args:
        order: The training.
        threads: Number of its threads; or, by machine, how many trainings its workers make at a time, for an even share
            of the cores.
        folder: Folder for this and other orders, if this machine can't see that of the results.
    """
    if folder is not None:
        # Of another order nothing is taken over, be it another study of the same name or another version.
        whole = "\0".join([order.description, order.version, order.results])
        own = hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()
        order = replace(order, results=str(Path(folder).expanduser().absolute() / own))
    watch = _Watch()
    count = threads if isinstance(threads, int) else max(1, _cores_here() // max(1, threads.get(watch.host, 1)))
    return supervise(order, dict.fromkeys(THREAD_VARIABLES, str(count)), watch.is_cancelled)


class _Watch:
    """Finds out whether the driver has given a task up: Dask can't interrupt a thread.

    Dask has no public way to ask this on a worker; a test holds what is used.
    """

    _ENDING: ClassVar = ("closing", "closed", "failed")

    def __init__(self) -> None:
        from distributed import get_worker

        self._worker = get_worker()
        self._key = self._worker.get_current_task()

    @property
    def host(self) -> str:
        """The machine, as the scheduler names it."""
        return urlsplit(self._worker.address).hostname or ""

    def is_cancelled(self) -> bool:
        """Return whether nobody waits for the task any more."""
        task = self._worker.state.tasks.get(self._key)
        return task is None or task.state == "cancelled" or self._worker.status.name in self._ENDING
