"""Trainings without PyTorch, which take a moment, for tests of engines."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class StandIn:
    """A training that `programs/stand_in.py` makes.

    Args:
        path: Its name, too.
        seconds: How long it takes.
        fails: Text of the error that it ends with; None: it ends with a result.
        starts: Whether it starts a process of its own.
    """

    path: str
    seconds: float = 0.0
    fails: str | None = None
    starts: bool = False
    program: str = "stand_in"

    @property
    def name(self) -> str:
        return f"training {self.path}"

    def to_json(self) -> str:
        failing = {} if self.fails is None else {"fails": self.fails}
        return json.dumps({"name": self.path, "seconds": self.seconds, "starts": self.starts, **failing})


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes find the program."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def environment() -> dict[str, str]:
    """Return the environment of a process that can run stand-ins."""
    places = [str(PROGRAMS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}


def starts(results: Path) -> list[str]:
    """Return the names of the stand-ins that were started, once for each process, sorted."""
    return sorted(path.name.split(".")[1] for path in results.glob("started.*"))


def processes(results: Path) -> list[int]:
    """Return the numbers of the processes of all stand-ins, and of what they have started."""
    started = [int(path.name.split(".")[2]) for path in results.glob("started.*")]
    return started + [int(path.read_text()) for path in results.glob("*/child")]


def is_running(number: int) -> bool:
    """Return whether a process runs; one that has ended and was not yet waited for doesn't."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition, and fail if it doesn't come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
