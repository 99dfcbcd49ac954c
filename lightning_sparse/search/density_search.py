"""Searches as data: which densities are tried on which network, how, and what the best are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from lightning_sparse import configs
from lightning_sparse.experiments.kept_layers import check_keeps_layers
from lightning_sparse.experiments.yaml_options import check_class, check_lists, check_numbers, read_options
from lightning_sparse.search.halving import Rungs
from lightning_sparse.search.spaces import EXPONENTS, GRID, GroupDensities, LayerDensities, PowerLaw, Space
from lightning_sparse.search.template import Template
from lightning_sparse.search.trials import default_sampler
from lightning_sparse.validation.errors import InvalidValueError

SpaceName = Literal["layers", "groups", "power_law"]
SamplerName = Literal["random", "mutation", "tpe", "cma_es"]
Control = Literal["dense", "same_capacity", "uniform", "erdos_renyi_kernel", "gradual_pruning", "random_search"]
CONTROLS: tuple[Control, ...] = get_args(Control)
# With more densities, 64 trials of any sampler find less than a power law in the layers' sizes.
_MOST_LAYERS = 15


@dataclass(frozen=True, repr=False)
class DensitySearch:
    """A search for the density of each layer, in the manner of SNAS (Tessera, 2021); what isn't published is ours.

    Attributes:
        name: Name of its folder and files.
        title: Title of its page.
        model: Import path of the template: a class or function that makes a network, or a LightningModule that logs
            `val/<metric>` and `test/<metric>`.
        data: Class path of a LightningDataModule with validation data, its `init_args`, and a `name`.
        epochs: Number of epochs of a whole training.
        model_options: Arguments of the template.
        width: Name of the template's option that is a factor on its width, for the control "same_capacity".
        optimizer: Class path and `init_args` of the optimizer, unless the template is a LightningModule.
        lr_scheduler: Class path and `init_args` of a learning rate schedule, if any.
        lr_interval: Interval at which it is stepped.
        batch_size: Images per step.
        metric: Name of what is maximized, in [0, 1].
        include: Patterns of the weights whose density is searched, as for `SparseNetwork`.
        exclude: Patterns of weights to leave dense.
        space: "layers", "groups" or "power_law". None: layers, or with more than 15 of them a power law.
        groups: Patterns of layers that have one density, for the space "groups".
        grid: Densities to choose from, ascending, in (0, 1].
        exponents: Exponents to choose from, for the space "power_law".
        sampler: "random", "mutation", "tpe" or "cma_es". None: by the number of choices, see `default_sampler`.
        trials: Number of trials.
        rungs: Number of rungs of successive halving.
        reduction: Factor between the rungs.
        penalty: Factor lambda >= 0 of the objective: metric - lambda * active share of the weights.
        max_active: Largest number of active weights. None: no bound.
        sparse_training: Options of `SparseTrainingCallback` for sparse networks. Default: the masks stay as they are.
        seed: Seed of the sampler, and of all trials' weights and batches; final networks have those after it.
        final_seeds: Number of seeds with which the best network and its controls are trained and tested.
        controls: Networks that the best one is compared with.
        note: Remarks for its page.

    Raises:
        ValueError: If an option is out of range.
    """

    name: str
    title: str
    model: str
    data: Mapping[str, Any]
    epochs: int
    model_options: Mapping[str, Any] = field(default_factory=dict)
    width: str | None = None
    optimizer: Mapping[str, Any] | None = None
    lr_scheduler: Mapping[str, Any] | None = None
    lr_interval: Literal["step", "epoch"] = "epoch"
    batch_size: int = 128
    metric: str = "accuracy"
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    space: SpaceName | None = None
    groups: tuple[str, ...] = ()
    grid: tuple[float, ...] = GRID
    exponents: tuple[float, ...] = EXPONENTS
    sampler: SamplerName | None = None
    trials: int = 64
    rungs: int = 3
    reduction: int = 3
    penalty: float = 0.0
    max_active: int | None = None
    sparse_training: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "static"})
    seed: int = 0
    final_seeds: int = 5
    controls: tuple[Control, ...] = CONTROLS
    note: str = ""

    def __post_init__(self) -> None:
        _check_types(self)
        for name, options in (
            ("space", SpaceName),
            ("sampler", SamplerName),
            ("lr_interval", Literal["step", "epoch"]),
        ):
            _check_choice(name, getattr(self, name), get_args(options))
        for control in self.controls:
            _check_choice("controls", control, CONTROLS)
        if self.groups and self.space not in (None, "groups"):
            raise InvalidValueError(
                expected="the space 'groups', where there are groups",
                got=repr(self.space),
                cure="leave one of them out",
            )
        if "same_capacity" in self.controls and self.width is None:
            raise InvalidValueError(
                expected="the template's option that is a factor on its width, for the control same_capacity",
                got=None,
                cure="width: NAME, or a list of controls without it",
            )
        _ = self.halving

    def __repr__(self) -> str:
        return f"DensitySearch(name={self.name!r}: {self.trials} trials of {self.model}, {self.epochs} epochs)"

    @classmethod
    def read(cls, name: str) -> DensitySearch:
        """Read a search from a YAML file, or a shipped one by its name.

        Raises:
            ValueError: If there is none, or an option is unknown, missing or out of range.
        """
        return cls(**read_options(cls, configs.find(name, _FOLDER, "search"), "a search"))

    @property
    def halving(self) -> Rungs:
        """The rungs of its trials."""
        return Rungs(self.epochs, self.reduction, self.rungs)

    @property
    def protocol(self) -> dict[str, Any]:
        """All that decides a training's result, beside its architecture, seed and length."""
        return {
            "model": self.model,
            "model_options": dict(self.model_options),
            "width": self.width,
            "data": dict(self.data),
            "optimizer": None if self.optimizer is None else dict(self.optimizer),
            "lr_scheduler": None if self.lr_scheduler is None else dict(self.lr_scheduler),
            "lr_interval": self.lr_interval,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "metric": self.metric,
            "include": None if self.include is None else list(self.include),
            "exclude": None if self.exclude is None else list(self.exclude),
            "sparse_training": dict(self.sparse_training),
        }

    def choose_space(self, template: Template) -> Space:
        """Return the space of a template's densities."""
        name = self.space or ("groups" if self.groups else "layers")
        if self.space is None and not self.groups and len(template.sizes) > _MOST_LAYERS:
            name = "power_law"
        if name == "groups":
            return GroupDensities(template.sizes, self.groups, self.grid)
        if name == "power_law":
            return PowerLaw(template.sizes, self.grid, self.exponents)
        return LayerDensities(template.sizes, self.grid)

    def sampler_name(self, space: Space) -> SamplerName:
        """Return the name of the sampler for a space."""
        return self.sampler or default_sampler(len(space.choices))

    def objective(self, value: float, active: int, total: int) -> float:
        """Return what is maximized: ``value - penalty * active / total``.

        Args:
            value: The metric on the validation data, in [0, 1].
            active: Number of active weights.
            total: Number of all weights of the template.
        """
        return value - self.penalty * active / total


def _check_types(search: DensitySearch) -> None:
    """Raise a ValueError for options of another type than YAML should give, or out of range."""
    check_numbers(search, ("epochs", "trials", "batch_size", "final_seeds"), 1, whole=True)
    check_numbers(search, ("seed",), 0, whole=True)
    check_numbers(search, ("penalty",), 0)
    if search.max_active is not None:
        check_numbers(search, ("max_active",), 1, whole=True)
    check_lists(
        search, ("groups", "controls", *(name for name in ("include", "exclude") if getattr(search, name) is not None))
    )
    check_lists(search, ("grid", "exponents"), (int, float))
    for name in ("data", "optimizer", "lr_scheduler"):
        if name == "data" or getattr(search, name) is not None:
            check_class(getattr(search, name), name)
    if not isinstance(search.model_options, Mapping):
        raise InvalidValueError(
            expected="options by name as model_options", got=repr(search.model_options), cure="{width: 0.5}"
        )
    check_keeps_layers(search.sparse_training)


def _check_choice(name: str, given: object, options: tuple[str, ...]) -> None:
    if given is not None and given not in options:
        raise InvalidValueError(
            expected=f"{name} among {', '.join(options)}", got=repr(given), cure="check the spelling"
        )


_FOLDER = Path(__file__).parent / "searches"


def shipped() -> dict[str, str]:
    """Return what each shipped search is, by name: the comment in its first line."""
    return configs.available(_FOLDER)
