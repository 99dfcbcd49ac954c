"""What each of several runs at once gets of the machine: GPUs and threads."""

from __future__ import annotations

import os
from numbers import Integral

import torch


def shares(jobs: int, devices: object = 1) -> list[dict[str, str]]:
    """Return the environment variables of each of several processes that run at once.

    GPUs are dealt out in turn, so many to each; with more processes than that they share them. The cores that this
    process may use are divided evenly. What the user has exported is respected: GPUs are dealt out from
    ``CUDA_VISIBLE_DEVICES``, and a given ``OMP_NUM_THREADS`` stays.

    Args:
        jobs: Number of processes, >= 1.
        devices: The Trainer's option of that name. Only a number >= 1 is dealt out; with others, which name the GPUs
            or want all, each process sees every GPU.
    """
    wanted = int(devices) if isinstance(devices, (Integral, str)) and str(devices).isdecimal() else 0
    gpus = _visible_gpus()
    groups = [gpus[start : start + wanted] for start in range(0, len(gpus) - wanted + 1, wanted)] if wanted else []
    threads = str(max(1, _cores() // (jobs * max(1, wanted))))
    own = {} if os.environ.get("OMP_NUM_THREADS") else {"OMP_NUM_THREADS": threads}
    return [
        {**own, "CUDA_VISIBLE_DEVICES": ",".join(groups[job % len(groups)])} if groups else dict(own)
        for job in range(jobs)
    ]


def _cores() -> int:
    """Return how many cores this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as its environment has them: numbers, or the driver's names."""
    count = torch.cuda.device_count()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if chosen is None else (name.strip() for name in chosen.split(","))
    return list(names)[:count]
