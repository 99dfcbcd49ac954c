"""A run's log in its folder: numbers of the CSV file, settings, saved figures."""

from __future__ import annotations

import csv
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_sparse.validation.errors import InvalidValueError, MissingFileError


class Point(NamedTuple):
    """A logged number with its epoch and step; NaN if not in the log."""

    epoch: float
    step: float
    value: float


@dataclass(frozen=True)
class RunLog:
    """A run that was logged by Lightning's CSVLogger.

    Attributes:
        name: Name for the page.
        folder: Folder of the log.
        columns: Numbers of each metric in the order of the log, by its name.
        settings: Settings of the run, by dotted name.
        figures: PNG files that callbacks saved.
        unread: File of settings that could not be read, and the reason; empty if all could.
    """

    name: str
    folder: Path
    columns: dict[str, list[Point]]
    settings: dict[str, str]
    figures: list[Path]
    unread: str = ""

    @classmethod
    def read(cls, folder: Path) -> RunLog:
        """Read a run's folder, or the newest `version_N` below it.

        Raises:
            FileNotFoundError: If there is no log.
            ValueError: If the log has no numbers, or is no CSV file.
        """
        newest = _newest(Path(folder))
        settings, unread = _settings(newest)
        return cls(
            name=_name(newest),
            folder=newest,
            columns=_columns(newest / "metrics.csv"),
            settings=settings,
            figures=sorted(path for path in (newest / "figures").rglob("*.png") if not _is_hidden(path, newest)),
            unread=unread,
        )

    def last(self, metric: str) -> float | None:
        """Return the last number of a metric, None if there is none."""
        points = self.columns.get(metric)
        return points[-1].value if points else None

    def by_layer(self, *folders: str) -> dict[str, list[Point]]:
        """Return the metrics below a name, by the rest of their names: by layer for `sparsity/layer_density`.

        Args:
            folders: The name, and older ones, of which the first counts that the log has.
        """
        for folder in folders:
            start = f"{folder}/"
            below = {name.removeprefix(start): its for name, its in self.columns.items() if name.startswith(start)}
            if below:
                return below
        return {}


def _newest(folder: Path) -> Path:
    if (folder / "metrics.csv").exists():
        return folder
    logs = [file.parent for file in folder.rglob("metrics.csv")] if folder.is_dir() else []
    # Copies that systems and editors keep in hidden folders, unless the user keeps the logs in one.
    logs = [log for log in logs if not _is_hidden(log, folder)] or logs
    if not logs:
        raise MissingFileError(
            expected="the folder of a run, with a metrics.csv",
            got=f"{str(folder)!r}, which has none",
            cure=(
                "log with lightning.pytorch.loggers.CSVLogger, and give the folder that it writes to "
                "(lightning_logs/version_0)"
            ),
        )
    return max(logs, key=lambda log: (log / "metrics.csv").stat().st_mtime)


def _is_hidden(path: Path, folder: Path) -> bool:
    """Tell whether a name below a folder begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _name(folder: Path) -> str:
    parts = folder.resolve().parts
    return "/".join(parts[-2:]) if parts[-1].startswith("version_") else parts[-1]


def _columns(file: Path) -> dict[str, list[Point]]:
    columns: dict[str, list[Point]] = {}
    with file.open(newline="", encoding="utf-8") as log:
        for row in csv.DictReader(log):
            epoch, step = (_number(row.get(name)) for name in ("epoch", "step"))
            for name, text in row.items():
                if name in (None, "epoch", "step") or not text:
                    continue
                value = _number(text if isinstance(text, str) else None)
                columns.setdefault(name, []).append(Point(epoch, step, value))
    if not columns:
        raise InvalidValueError(
            expected=f"numbers in {file.name}",
            got="none",
            cure="let the run log at least one epoch",
        )
    return columns


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _settings(folder: Path) -> tuple[dict[str, str], str]:
    """Return the settings, and the file that could not be read with the reason."""
    unread: list[str] = []
    for name in ("config.yaml", "hparams.yaml"):  # the first is complete and includes the second
        try:
            content = yaml.load((folder / name).read_text(encoding="utf-8"), _Lenient)
            if content:
                return dict(_flat(content)), "; ".join(unread)
        except FileNotFoundError:
            continue
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # an impossible date is a ValueError
            unread.append(f"{name} could not be read: {' '.join(str(error).split())}")
    return {}, "; ".join(unread)


class _Lenient(yaml.SafeLoader):
    """Loader that reads Python objects as plain data, without creating them, and keys of any type as strings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        return {
            str(self.construct_object(name, deep=True)): self.construct_object(value, deep=True)
            for name, value in node.value
        }


_Lenient.add_multi_constructor("", lambda loader, tag, node: _plain(loader, node))


def _plain(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


def _flat(content: Any, path: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested settings by dotted name, without None."""
    if isinstance(content, dict):
        items = [(f"{path}.{name}" if path else str(name), value) for name, value in content.items()]
    elif isinstance(content, list) and any(isinstance(value, dict | list) for value in content):
        items = [(f"{path}.{index}", value) for index, value in enumerate(content)]
    else:
        return [] if content is None else [(path, str(content))]
    return [leaf for name, value in items for leaf in _flat(value, name)]
