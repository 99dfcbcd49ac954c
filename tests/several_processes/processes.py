"""Several forked processes on one machine that communicate through gloo."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# Seconds, far more than a test needs: a hanging process fails instead of waiting forever.
TIMEOUT = 120


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def run(function: Callable[..., Any], processes: int, folder: Path, *arguments: Any) -> list[Any]:
    """Call a function with the arguments in each of some processes, as torchrun starts them; return the results.

    A result is an object that `torch.save` takes, or the traceback of the exception that ended the process.
    """
    context = multiprocessing.get_context("fork")
    port = free_port()
    started = [
        context.Process(target=_rank, args=(function, rank, processes, port, folder, arguments))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(TIMEOUT)
    hung = [process for process in started if process.is_alive()]
    for process in hung:
        process.kill()
        process.join()
    assert not hung, "some processes hang"
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(processes)]


def _rank(
    function: Callable[..., Any], rank: int, processes: int, port: int, folder: Path, arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(processes),
        LOCAL_WORLD_SIZE=str(processes),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="test",
    )
    os.environ.pop("PL_GLOBAL_SEED", None)  # the seed of an earlier test, which Lightning would use again
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # no process has the seed of another
    try:
        result = function(*arguments)
    except Exception as error:
        result = "".join(traceback.format_exception(error))
    torch.save(result, folder / f"{rank}.pt")
    # At once: threads of the communication library don't outlive a fork well.
    os._exit(0)
