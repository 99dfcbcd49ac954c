"""Shares of the machine, GPUs and threads, for runs that are made at the same time."""

from __future__ import annotations

import os
from numbers import Integral

import torch

from lightning_sparse.experiments.engine.supervision import THREAD_VARIABLES


def shares(jobs: int, devices: object = 1, threads: int | None = None) -> list[dict[str, str]]:
    """Return the environment variables of each process, for processes that run at the same time.

    Each process gets the next GPUs, as many as `devices` says; if there are too few, processes share them. The cores
    that this process may use are divided evenly. Exported variables are respected: GPUs are chosen among those of
    ``CUDA_VISIBLE_DEVICES``, and ``OMP_NUM_THREADS`` stays.

    Args:
        jobs: Number of processes, >= 1.
        devices: The Trainer's option of that name. Only a number >= 1 is assigned; with other values, which name GPUs
            or ask for all, each process sees every GPU.
        threads: Number of threads of each process, >= 1, whatever is exported. Default: as above.
    """
    wanted = int(devices) if isinstance(devices, (Integral, str)) and str(devices).isdecimal() else 0
    gpus = _visible_gpus()
    groups = [gpus[start : start + wanted] for start in range(0, len(gpus) - wanted + 1, wanted)] if wanted else []
    common = _thread_variables(threads, processes=jobs * max(1, wanted))
    return [
        {**common, "CUDA_VISIBLE_DEVICES": ",".join(groups[job % len(groups)])} if groups else dict(common)
        for job in range(jobs)
    ]


def _thread_variables(threads: int | None, *, processes: int) -> dict[str, str]:
    if threads is not None:
        return dict.fromkeys(THREAD_VARIABLES, str(threads))
    fair = str(max(1, _cores() // processes))
    return {} if os.environ.get("OMP_NUM_THREADS") else {"OMP_NUM_THREADS": fair}


def _cores() -> int:
    """Return the number of cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as its environment names them: numbers or the driver's names."""
    count = torch.cuda.device_count()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if chosen is None else (name.strip() for name in chosen.split(","))
    return list(names)[:count]
