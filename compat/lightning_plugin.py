"""A plugin of pytest: puts a callback into every Trainer, and writes what each test came to as soon as it ends.

`COMPAT_CALLBACK` is "none", "sparse" or "flow"; `COMPAT_RECORD` is the file of results, a JSON object per line. Tests
that it has already are left out, so that a run continues where an earlier one ended. The lines also say how often the
test called `Trainer.fit`. `COMPAT_TESTS` is a file with the only tests to run; `COMPAT_PROCESSES=0` leaves out those
that train in processes of their own.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.connectors.callback_connector import _CallbackConnector

RECORD = Path(os.environ["COMPAT_RECORD"])
KIND = os.environ["COMPAT_CALLBACK"]
_fits = 0


def _callbacks() -> list[Callback]:
    from lightning_sparse import GradientFlowCallback, SparseMomentumCallback

    if KIND == "sparse":
        return [SparseMomentumCallback(density=0.5, schedule="constant")]
    return [GradientFlowCallback(every_n_epochs=1)] if KIND == "flow" else []


class _Hide(MetaPathFinder):
    """Hides the second Lightning: where both are imported, the later one logs for both, and tests read the logs."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pytorch_lightning":
            raise ModuleNotFoundError(f"{fullname} is hidden from Lightning's own tests", name=fullname)


def _write(**line: Any) -> None:
    with RECORD.open("a") as file:
        file.write(json.dumps(line) + "\n")


def pytest_configure() -> None:
    configure, fit = _CallbackConnector.on_trainer_init, Trainer.fit

    def configured_with_ours(self: _CallbackConnector, callbacks: Any, *args: Any, **options: Any) -> None:
        ours, given = _callbacks(), callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
        if ours and not {type(callback) for callback in ours} & {type(callback) for callback in given}:
            callbacks = [*given, *ours]
        configure(self, callbacks, *args, **options)

    @functools.wraps(fit)  # the command line reads its signature
    def counted_fit(self: Trainer, *args: Any, **options: Any) -> None:
        global _fits
        _fits += 1
        return fit(self, *args, **options)

    sys.meta_path.insert(0, _Hide())
    Trainer.fit = counted_fit  # type: ignore[method-assign]  # in this process only
    _CallbackConnector.on_trainer_init = configured_with_ours  # type: ignore[method-assign]  # the same


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lines = [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []
    done = {line["test"] for line in lines}
    wanted = os.environ.get("COMPAT_TESTS")
    only = set(Path(wanted).read_text().splitlines()) if wanted else None
    kept = [item for item in items if item.nodeid not in done and (only is None or item.nodeid in only)]
    if os.environ.get("COMPAT_PROCESSES") == "0":
        kept = [item for item in kept if not _starts_processes(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = sorted(kept, key=_starts_processes)


def _starts_processes(item: pytest.Item) -> bool:
    """Tell whether a test seems to train in processes of its own, which takes long: such tests are run last."""
    if not isinstance(item, pytest.Function):
        return False
    source = inspect.getsource(item.function)
    starts = any(word in item.nodeid + source for word in ("spawn", "fork", "num_processes", "devices=2"))
    return starts and any(word in source for word in (".fit(", ".validate(", ".test(", ".predict(", "launch"))


def _why(report: Any) -> str:
    """Return the messages of an error and of those that led to it, the last one first."""
    chain = getattr(report, "chain", None)
    if chain is None:
        return str(report)[-600:]
    return " <- ".join(_ends(crash.message) for _, crash, _ in reversed(chain) if crash is not None)


def _ends(message: str) -> str:
    """Return the beginning and the end of a message: that of another process has its cause at the end."""
    return message if len(message) <= 1000 else f"{message[:500]} ... {message[-500:]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    global _fits
    _fits = 0
    item.stash[REPORTS] = []
    RECORD.with_suffix(".running").write_text(item.nodeid)
    result = yield
    reports: list[pytest.TestReport] = item.stash[REPORTS]
    failed = [report for report in reports if report.failed]
    outcome = "failed" if failed else "skipped" if any(report.skipped for report in reports) else "passed"
    why = _why(failed[0].longrepr) if failed else ""
    _write(test=item.nodeid, outcome=outcome, fits=_fits, why=why, seconds=sum(report.duration for report in reports))
    return result


REPORTS = pytest.StashKey[list[pytest.TestReport]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    item.stash[REPORTS].append(report)
    return report
