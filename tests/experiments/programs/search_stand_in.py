"""Stands for a training of a search: waits a moment, and writes a result that depends on its architecture only."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from lightning_sparse.experiments.engine.lifeline import LIFELINE, end_with_parent


def main(description: str, data: str, results: str, *rest: str) -> None:
    if LIFELINE in rest:
        end_with_parent()
    asked = json.loads(description)
    folder = Path(results) / asked["search"] / asked["part"] / asked["label"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"started.{os.getpid()}").touch()
    time.sleep(0.4)
    counts = asked["architecture"]["counts"]
    value = 1 / (1 + sum(counts.values()))
    result = {**asked, "diverged": False, "value": value, "active": counts}
    (folder / f"epochs{asked['epochs']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
