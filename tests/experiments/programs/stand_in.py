"""Stands for a training: writes to its log, waits, and writes a result or fails, as its description says.

Description: name; seconds; optionally "fails", text of an error; "starts", whether it starts a process of its own.
Files `started.NAME.NUMBER` in the folder of results say which processes there were.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_sparse.experiments.engine.lifeline import LIFELINE, end_with_parent
from lightning_sparse.experiments.engine.supervision import RUN_ELSEWHERE


def main(description: str, data: str, results: str, *rest: str) -> None:
    if LIFELINE in rest:
        end_with_parent()
    asked = json.loads(description)
    work = Path(results) / asked["name"]
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", timeout=0):
            train(asked, Path(results), work)
    except Timeout:
        sys.exit(RUN_ELSEWHERE)


def train(asked: dict[str, object], results: Path, work: Path) -> None:
    (results / f"started.{asked['name']}.{os.getpid()}").touch()
    if asked.get("starts"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (work / "child").write_text(str(child.pid))
    (work / "progress").write_text("1 2")
    time.sleep(float(str(asked["seconds"])))
    if "fails" in asked:
        sys.stdout.write("before\n")
        sys.stdout.flush()
        raise ValueError(asked["fails"])
    threads = os.environ.get("OMP_NUM_THREADS")
    (results / f"{asked['name']}.json").write_text(json.dumps({"name": asked["name"], "threads": threads}))


def has_torch() -> bool:
    """Tell whether a process has imported PyTorch."""
    return "torch" in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
