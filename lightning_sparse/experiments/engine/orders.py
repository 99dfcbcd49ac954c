"""What an engine is asked to run and what comes back: plain values, which whoever passes them on needn't understand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from uuid import uuid4

State = Literal["finished", "failed", "elsewhere", "cancelled"]


class Training(Protocol):
    """What can be run: one training, whose result is one JSON file."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def path(self) -> str:
        """Path of its result below the folder of results, without `.json`; it tells trainings from one another."""

    @property
    def program(self) -> str:
        """Module that makes it: `python -m PROGRAM DESCRIPTION DATA RESULTS lifeline` writes the result."""

    def to_json(self) -> str:
        """Return the description that the program reads."""


@dataclass(frozen=True)
class Order:
    """A training as plain text, for a process that may be on another machine.

    Attributes:
        name: Name in messages.
        path: Path of its result below `results`, without `.json`.
        program: Module that makes it.
        description: The training as JSON.
        data: Root folder of the data sets.
        results: Folder of the results.
        version: Version of this package that ordered it.
        token: Text that no other order has.
    """

    name: str
    path: str
    program: str
    description: str
    data: str
    results: str
    version: str
    token: str = field(default_factory=lambda: uuid4().hex)

    @property
    def result_file(self) -> Path:
        """Path of the result."""
        return Path(self.results) / f"{self.path}.json"

    @property
    def work_folder(self) -> Path:
        """Folder of checkpoint, log and progress while it runs."""
        return Path(self.results) / self.path

    @property
    def cancel_file(self) -> Path:
        """File that says, once it is there, that nobody waits for the training any more."""
        return self.work_folder / f"cancel.{self.token}"


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        state: "finished": there is a result. "failed": it ended without one. "elsewhere": another process makes it.
            "cancelled": it was ended, as nobody waits for it any more.
        result: Content of the result file, if finished.
        log_end: Last lines of its log, if failed.
    """

    state: State
    result: str = ""
    log_end: str = ""
