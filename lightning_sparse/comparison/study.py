"""Same-capacity studies as data: which pairs are trained, and what each training is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from lightning_sparse import configs
from lightning_sparse.comparison.regularizers import Regularizer
from lightning_sparse.comparison.same_capacity import InitReference
from lightning_sparse.experiments.kept_layers import check_keeps_layers
from lightning_sparse.experiments.yaml_options import check_class, check_lists, check_numbers, read_options
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import is_real

Side = Literal["dense", "sparse"]
SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True)
class Cell:
    """What all pairs of a statistical test have in common; they differ in width and seed.

    Attributes:
        data: Name of the data set.
        optimizer: Name of the optimizer.
        learning_rate: Its learning rate.
        regularizer: Name of the regularizer.
        activation: Name of the activation.
        depth: Number of hidden layers.
    """

    data: str
    optimizer: str
    learning_rate: float
    regularizer: str
    activation: str
    depth: int

    @property
    def name(self) -> str:
        """Name in tables, and of its folder.

        >>> Cell("mnist", "sgd", 0.1, "bn", "relu", 2).name
        'mnist/sgd-0.1/bn/relu-2'
        """
        return f"{self.data}/{self.optimizer}-{self.learning_rate:g}/{self.regularizer}/{self.activation}-{self.depth}"


@dataclass(frozen=True)
class PairMember:
    """One training: one side of a pair.

    Attributes:
        study: The study's name.
        cell: Configuration that it has in common with the pairs of its test.
        width: Width of the dense network; both sides have the active weights of that.
        seed: Seed of networks, masks and the order of batches.
        side: "dense" or "sparse".
        protocol: All else that decides the result, as plain values.
    """

    study: str
    cell: Cell
    width: float
    seed: int
    side: Side
    protocol: Mapping[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.cell.name}, width {self.width:g}, seed {self.seed}, {self.side}"

    @property
    def path(self) -> str:
        """Path of its result below the folder of results, without `.json`."""
        return f"{self.study}/{self.cell.name}/width{self.width:g}/seed{self.seed}-{self.side}"

    @property
    def program(self) -> str:
        """Module that runs it."""
        return "lightning_sparse.comparison.training_process"

    def to_json(self) -> str:
        """Return it as JSON, for the process that runs it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PairMember:
        """Return the training that `to_json` described."""
        parts = json.loads(text)
        return cls(**{**parts, "cell": Cell(**parts["cell"])})


@dataclass(frozen=True, repr=False)
class SameCapacityStudy:
    """A study of sparse against dense networks of the same capacity (SC-SDC; Tessera et al., 2021).

    Attributes:
        name: Name of its folder and files.
        title: Title of its page.
        max_width: Width of the sparse networks, in the unit of `widths`.
        widths: Widths of the dense networks, each <= max_width.
        optimizers: By name, a class path, its `init_args` and a list of `learning_rates`.
        data: By name, the class path of a LightningDataModule of images, its `init_args`, and the options that augment
            its images as `augmentation`.
        epochs: Number of epochs.
        model: Import path of a function of a width, and of depth, activation, batch_norm and skip.
        model_options: Other arguments of that function.
        seeds: Number of seeds, from 0 on: pairs for each width.
        depths: Numbers of hidden layers.
        activations: Names of activations.
        regularizers: Names of regularizers, see `Regularizer`.
        batch_size: Images per step.
        weight_decay: Coefficient of "l2" and "wd".
        init_reference: Network whose initial distribution both have, see `same_capacity`.
        sparse_training: Options of `SparseTrainingCallback` for the sparse networks. Default: the masks stay as they
            are. Recipes must not redistribute weights between layers.
        initial_masks: Rule of the sparse networks' first masks, see `same_capacity`.
        pruned_from_dense: Whether the widest networks start dense instead, and the smallest weights are removed (Zhu &
            Gupta, 2017) until every layer has as many as the dense network's. Needs init_reference "sparse_nominal", as
            both then start with the distribution of the widest network.
        measured_epochs: Number of epochs, spread over the run, in which gradient flow is measured.
        note: Remarks for its page, such as what differs from the paper.

    Raises:
        ValueError: If an option is out of range.
    """

    name: str
    title: str
    max_width: float
    widths: tuple[float, ...]
    optimizers: Mapping[str, Mapping[str, Any]]
    data: Mapping[str, Mapping[str, Any]]
    epochs: int
    model: str = "lightning_sparse.comparison.networks.mlp"
    model_options: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 3
    depths: tuple[int, ...] = (4,)
    activations: tuple[str, ...] = ("relu",)
    regularizers: tuple[str, ...] = ("none",)
    batch_size: int = 128
    weight_decay: float = 1e-4
    init_reference: InitReference = "dense"
    sparse_training: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "static"})
    initial_masks: str = "random"
    pruned_from_dense: bool = False
    measured_epochs: int = 11
    note: str = ""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in self.regularizers:
            Regularizer(name)
        wrong = [width for width in self.widths if not 0 < width <= self.max_width]
        if wrong or not self.widths:
            raise InvalidValueError(
                expected=f"widths in (0, {self.max_width:g}]", got=list(self.widths), cure="leave the others out"
            )
        paths = [training.path for training in self.trainings(1)]
        if len(set(paths)) < len(paths):
            twice = next(path for path in paths if paths.count(path) > 1)
            raise InvalidValueError(
                expected="widths, learning rates, regularizers, activations and depths that differ",
                got=f"the same twice: {twice}",
                cure="give each once: pairs that count twice make p too small",
            )
        if self.pruned_from_dense and self.init_reference != "sparse_nominal":
            raise InvalidValueError(
                expected="init_reference: sparse_nominal, where networks are pruned from the dense widest one",
                got=repr(self.init_reference),
                cure="set it, or leave out pruned_from_dense",
            )
        without = [name for name, each in self.data.items() if "augmentation" not in each]
        if without and any(Regularizer(name).augments for name in self.regularizers):
            raise InvalidValueError(
                expected="options that augment the images of each data set, for the regularizer da",
                got=f"none for {', '.join(without)}",
                cure="augmentation: {crop_padding: 4, flip: true}, for instance",
            )

    def __repr__(self) -> str:
        size = f"{len(self.cells())} cells of {len(self.widths)} widths and {self.seeds} seeds"
        return f"SameCapacityStudy(name={self.name!r}: {size}, {self.epochs} epochs each)"

    @classmethod
    def read(cls, name: str) -> SameCapacityStudy:
        """Read a study from a YAML file, or a shipped one by its name.

        Raises:
            ValueError: If there is none, or an option is unknown, missing or out of range.
        """
        file = configs.find(name, _FOLDER, "study")
        return cls(**read_options(cls, file, "a study"))

    def cells(self) -> list[Cell]:
        """Return what the study tests, each once."""
        return [
            Cell(data, optimizer, float(rate), regularizer, activation, depth)
            for data in self.data
            for optimizer, options in self.optimizers.items()
            for rate in options["learning_rates"]
            for regularizer, activation, depth in product(self.regularizers, self.activations, self.depths)
        ]

    def trainings(self, seeds: int | None = None) -> Iterator[PairMember]:
        """Return all trainings, seed by seed, so that every test has some pairs before any has all.

        Args:
            seeds: Number of seeds. Default: the study's.
        """
        for seed in range(self.seeds if seeds is None else seeds):
            for width, cell, side in product(self.widths, self.cells(), SIDES):
                yield self.training(cell, width, seed, side)

    def training(self, cell: Cell, width: float, seed: int, side: Side) -> PairMember:
        """Return one training."""
        protocol = {
            "model": self.model,
            "model_options": dict(self.model_options),
            "max_width": self.max_width,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "weight_decay": self.weight_decay,
            "init_reference": self.init_reference,
            "sparse_training": dict(self.sparse_training),
            "measured_epochs": self.measured_epochs,
            "optimizer": {**self.optimizers[cell.optimizer], "learning_rates": [cell.learning_rate]},
            "data": dict(self.data[cell.data]),
            # Only where they are used, so that the results of earlier versions keep their protocol.
            **({} if self.initial_masks == "random" else {"initial_masks": self.initial_masks}),
            **({"pruned_from_dense": True} if self.pruned_from_dense else {}),
        }
        return PairMember(self.name, cell, width, seed, side, protocol)


def _check_types(study: SameCapacityStudy) -> None:
    """Raise a ValueError for options of another type than YAML should give."""
    check_numbers(study, ("epochs", "seeds", "batch_size", "measured_epochs"), 1, whole=True)
    check_numbers(study, ("max_width", "weight_decay"))
    check_lists(study, ("activations", "regularizers"))
    check_lists(study, ("widths",), (int, float))
    check_lists(study, ("depths",), int)
    for option in ("optimizers", "data"):
        if not isinstance(named := getattr(study, option), Mapping):
            raise InvalidValueError(
                expected=f"names of {option}, each with its options", got=repr(named), cure="{name: {class_path: ...}}"
            )
        for name, each in named.items():
            check_class(each, f"{option}: {name}")
    for name, each in study.optimizers.items():
        found = each.get("learning_rates")
        if not isinstance(found, (list, tuple)) or not all(map(is_real, found)):
            raise InvalidValueError(
                expected=f"a list of numbers as learning_rates of {name}", got=repr(found), cure="[0.1, 1.0e-3]"
            )
    check_keeps_layers(study.sparse_training)


_FOLDER = Path(__file__).parent / "studies"


def shipped() -> dict[str, str]:
    """Return what each shipped study is, by name: the comment in its first line."""
    return configs.available(_FOLDER)
