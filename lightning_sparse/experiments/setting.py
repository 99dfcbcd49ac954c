"""Experiments: a shipped configuration with changed options, a seed and a scale."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from lightning_sparse import configs
from lightning_sparse.experiments.trainer_options import (
    as_arguments,
    as_name,
    check_trainer_options,
    may_shorten,
    process_count,
)
from lightning_sparse.validation.errors import InvalidValueError

_BATCH = "data.init_args.batch_size"
# Short names of the options that studies change, with their paths in a configuration.
OPTIONS = {
    "density": "trainer.callbacks.init_args.density",
    "growth": "trainer.callbacks.init_args.growth",
    "keep_regrown": "trainer.callbacks.init_args.keep_regrown",
    "momentum": "model.init_args.optimizer.init_args.momentum",
    "prune_rate": "trainer.callbacks.init_args.prune_rate",
    "redistribution": "trainer.callbacks.init_args.redistribution",
}


@dataclass(frozen=True)
class Setting:
    """A shipped configuration with changed options; a cell of a table is its mean over seeds.

    Attributes:
        config: Name of a shipped configuration.
        changes: Changed options and their values, by the short names in `OPTIONS`, sorted.
    """

    config: str
    changes: tuple[tuple[str, str | float], ...] = ()

    @property
    def name(self) -> str:
        """Name of its folder, and of its row in messages.

        >>> Setting("mnist_lenet300_5", (("growth", "random"),)).name
        'mnist_lenet300_5+growth=random'
        """
        return "+".join([self.config, *(f"{option}={value}" for option, value in self.changes)])

    def arguments(self) -> list[str]:
        """Return the arguments of the command line for it."""
        changed = [text for option, value in self.changes for text in (f"--{OPTIONS[option]}", str(value))]
        return ["--config", self.config, *changed]

    def data_options(self) -> dict[str, Any]:
        """Return the data module's options in the configuration."""
        options: dict[str, Any] = yaml.safe_load(configs.find(self.config).read_text())["data"]["init_args"]
        return options

    def data_arguments(self, root: Path, *, download: bool) -> list[str]:
        """Return the arguments of the command line for the place of its data and for downloading them.

        Args:
            root: Folder that replaces the configuration's `data`. If it has an `.npz` file with the data set's name,
                such as `cifar10.npz`, that file is used.
            download: Whether to download missing data, where that is possible.
        """
        options = self.data_options()
        place = root / Path(options["data_dir"]).relative_to("data")
        arrays = root / f"{self.config.removeprefix('mostafa_').partition('_')[0]}.npz"
        fetched = ["--data.init_args.download", str(download).lower()] if "download" in options else []
        return ["--data.init_args.data_dir", str(arrays if arrays.exists() else place), *fetched]


@dataclass(frozen=True)
class Scale:
    """How much of a protocol is run, and with which other options.

    Attributes:
        name: Name of the folder of its results.
        changes: Arguments of the command line by name, without dashes.
        width: Factor on the width of the networks that are too slow for a first look.
        title: Ending of the titles of tables, unless it is the papers' protocol.
        note: Note for its tables.
        trainer: Options of the Trainer that replace the configurations'.
        compile_mode: Mode of `torch.compile`, an option of `ImageClassifier`; None: networks aren't compiled.
    """

    name: str
    changes: Mapping[str, str] = field(default_factory=dict)
    width: float = 1.0
    title: str = ""
    note: str = ""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    compile_mode: str | None = None

    @property
    def shortens(self) -> bool:
        """Whether runs may be shorter than their protocols."""
        return bool(self.changes) or may_shorten(self.trainer)

    def with_options(self, trainer: Mapping[str, Any], compile_mode: str | None = None) -> Scale:
        """Return this scale with other options, whose results have a folder of their own.

        >>> FULL.with_options({"precision": "bf16-mixed"}).name
        'full+precision=bf16-mixed'

        Args:
            trainer: Options of the Trainer.
            compile_mode: Mode of `torch.compile`.

        Raises:
            ValueError: If the Trainer has no such option, or a run sets it itself.
        """
        check_trainer_options(trainer)
        options = {**trainer, **({} if compile_mode is None else {"compile_mode": compile_mode})}
        if not options:
            return self
        named = ", ".join(f"{option}={value}" for option, value in options.items())
        shared = " Batches are split evenly over the devices." if process_count(trainer) > 1 else ""
        return replace(
            self,
            name=f"{self.name}+{as_name(options)}",
            title=f"{self.title} ({named})",
            note=f"{self.note}\n\nNot the paper's protocol: run with {named}.{shared}".strip(),
            trainer=dict(trainer),
            compile_mode=compile_mode,
        )

    def arguments(self, setting: Setting) -> list[str]:
        """Return the arguments of the command line for a setting at this scale.

        Raises:
            ValueError: If a batch can't be split evenly over the processes of a run.
        """
        # Any folder of images will do for a first look, not only one with ImageNet's 1000 classes.
        changes = {"data": "ImageFolderDataModule"} if self.changes and "imagenet" in setting.config else {}
        changes |= self.changes
        if self.width != 1 and "mnist" not in setting.config:
            changes["model.init_args.model_options.width"] = str(self.width)
        processes = process_count(self.trainer)
        if processes > 1:  # split the batch, so that steps and learning rates stay the protocol's
            batch = int(changes.get(_BATCH, setting.data_options()["batch_size"]))
            if batch % processes:
                raise InvalidValueError(
                    expected=f"devices that split the batch of {batch} images of {setting.config} evenly",
                    got=f"{processes} processes",
                    cure="another number of devices",
                )
            changes[_BATCH] = str(batch // processes)
        return [text for option, value in changes.items() for text in (f"--{option}", value)]


FULL = Scale("full")
_SMALL_EPOCHS, _SMALL_BATCHES, _SMALL_WIDTH = 3, 25, 0.25
SMALL = Scale(
    "small",
    {
        "trainer.max_epochs": str(_SMALL_EPOCHS),
        "trainer.limit_train_batches": str(_SMALL_BATCHES),
        "trainer.limit_val_batches": "4",
        "trainer.limit_test_batches": "4",
        _BATCH: "32",
        "data.init_args.eval_batch_size": "100",
    },
    width=_SMALL_WIDTH,
    title=" (small scale, no reproduction)",
    note=f"""\
Small scale: {_SMALL_EPOCHS} epochs of {_SMALL_BATCHES} small batches, and {_SMALL_WIDTH} times the width of networks
other than LeNets. Such numbers show that everything works; they can't be compared with the published ones.""",
)
SCALES = {scale.name: scale for scale in (FULL, SMALL)}


@dataclass(frozen=True)
class Experiment:
    """One training: a setting, a seed and a scale.

    Attributes:
        setting: Setting that is trained.
        seed: Seed for initialization, masks and the order of images.
        scale: Scale at which the protocol is run.
    """

    setting: Setting
    seed: int
    scale: Scale = FULL

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.setting.name}, seed {self.seed}"

    @property
    def path(self) -> str:
        """Path of its result below the folder of results, without `.json`."""
        return f"{self.scale.name}/{self.setting.name}/seed{self.seed}"

    @property
    def program(self) -> str:
        """Module that runs it."""
        return "lightning_sparse.experiments.training_process"

    def result_file(self, results: Path) -> Path:
        """Return the path of its result file."""
        return results / f"{self.path}.json"

    def work_folder(self, results: Path) -> Path:
        """Return the folder of its checkpoint and log while it runs."""
        return results / self.path

    def arguments(self) -> list[str]:
        """Return the arguments of the command line for it."""
        changed = [*self.scale.arguments(self.setting), *as_arguments(self.scale.trainer)]
        if self.scale.compile_mode is not None:
            changed.append(f"--model.init_args.compile_mode={self.scale.compile_mode}")
        return [*self.setting.arguments(), *changed, "--seed_everything", str(self.seed)]

    def to_json(self) -> str:
        """Return it as JSON, for the process that runs it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Experiment:
        """Return the experiment that `to_json` described."""
        parts = json.loads(text)
        changes = tuple((option, value) for option, value in parts["setting"]["changes"])
        return cls(Setting(parts["setting"]["config"], changes), parts["seed"], Scale(**parts["scale"]))
