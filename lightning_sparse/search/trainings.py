"""The trainings of a search: trials of some epochs, and final networks that are tested."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Names that the result of a training has beside its description, unless it diverged.
RESULT = frozenset({"value", "active"})


@dataclass(frozen=True)
class Architecture:
    """What is trained: the template with a number of active weights in each layer, or another width of it.

    Attributes:
        counts: Number of active weights of each layer; empty: all.
        width: Value of the template's option for its width; None: as it is.
        pruned_from_dense: Whether training starts dense, and the smallest weights are removed until as many are left as
            `counts` has in all (Zhu & Gupta, 2017); else the active weights are random from the start.
    """

    counts: Mapping[str, int] = field(default_factory=dict, hash=False)
    width: float | None = None
    pruned_from_dense: bool = False

    @property
    def suffix(self) -> str:
        """Text that tells it from others in names of files; none for the template itself."""
        if not self.counts and self.width is None:
            return ""
        text = json.dumps([list(self.counts.items()), self.width, self.pruned_from_dense])
        return f"-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True)
class SearchTraining:
    """One training of a search.

    Attributes:
        search: Name of the search.
        part: Folder below it, such as "trials" or "final".
        label: Name of the network in it.
        architecture: Active weights and width of the network.
        seed: Seed of initial weights, masks and the order of batches.
        epochs: Number of epochs after which it is measured.
        continues: Number of epochs of the training that it continues, 0 for none.
        tests: Whether it is measured on the test data, else on the validation data.
        protocol: All else that decides the result, as plain values.
    """

    search: str
    part: str
    label: str
    architecture: Architecture
    seed: int
    epochs: int
    continues: int = 0
    tests: bool = False
    protocol: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """Name in messages."""
        measured = f"seed {self.seed}" if self.tests else f"{self.epochs} epochs"
        return f"{self.search}, {self.part}: {self.label}, {measured}"

    @property
    def path(self) -> str:
        """Path of its result below the folder of results, without `.json`."""
        return self._path(self.epochs)

    @property
    def begin(self) -> str | None:
        """Path of the checkpoint that it continues, below the folder of results."""
        return f"{self._path(self.continues)}.ckpt" if self.continues else None

    def _path(self, epochs: int) -> str:
        measured = f"seed{self.seed}" if self.tests else f"epochs{epochs}"
        # Another penalty or more trials may choose another network: its results stand beside those of the one before.
        label = f"{self.label}{self.architecture.suffix}" if self.tests else self.label
        return f"{self.search}/{self.part}/{label}/{measured}"

    @property
    def program(self) -> str:
        """Module that runs it."""
        return "lightning_sparse.search.training_process"

    def to_json(self) -> str:
        """Return it as JSON, for the process that runs it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SearchTraining:
        """Return the training that `to_json` described."""
        parts = json.loads(text)
        return cls(**{**parts, "architecture": Architecture(**parts["architecture"])})
