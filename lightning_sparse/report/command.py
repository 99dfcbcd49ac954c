"""`lightning-sparse report`: from the folder of a run to a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from lightning_sparse.report import sections
from lightning_sparse.report.page import page
from lightning_sparse.report.run_log import RunLog


def report(run: Path, other: Path | None = None, out: Path = Path("report.html")) -> None:
    """Write one HTML page about a run, or two runs side by side, that opens anywhere without a network.

    It shows what is in the run's CSV log: the project's own metrics, density per layer, topology updates, gradient flow
    and class specialization, the settings, and the figures that callbacks saved.

    Args:
        run: Folder of the run, as Lightning's CSVLogger made it: lightning_logs/version_0, or one above.
        other: Folder of a run to compare with.
        out: File to write.

    Raises:
        FileNotFoundError: If a folder has no log.
        ValueError: If a log has no numbers.
    """
    runs = _with_distinct_names(
        [RunLog.read(Path(folder).expanduser()) for folder in (run, other) if folder is not None]
    )
    parts = [
        sections.results,
        sections.density,
        sections.updates,
        sections.gradient_flow,
        sections.specialization,
        sections.saved_figures,
        sections.settings,
    ]
    target = Path(out).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(" and ".join(log.name for log in runs), [part(runs) for part in parts]), encoding="utf-8")
    Console().print(f"wrote {target}")


def _with_distinct_names(runs: list[RunLog]) -> list[RunLog]:
    """Return runs whose names differ."""
    if len(runs) > 1 and runs[0].name == runs[1].name:
        return [replace(log, name=f"{log.name} ({letter})") for log, letter in zip(runs, "AB", strict=True)]
    return runs
