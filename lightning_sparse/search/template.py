"""The network that a search makes sparse, its data, and the masks of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from math import ceil, prod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_sparse._compat import LightningDataModule, LightningModule, is_a
from lightning_sparse.comparison.same_capacity import layer_mask
from lightning_sparse.experiments.classifying import output_count
from lightning_sparse.models import ImageClassifier
from lightning_sparse.network.seeding import mask_generator
from lightning_sparse.search.trainings import Architecture
from lightning_sparse.selection.weight import Weight
from lightning_sparse.selection.weights import find_weights
from lightning_sparse.topology.initial_masks import as_initial_masks
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.import_paths import import_callable


@dataclass(frozen=True)
class Template:
    """What a search needs to know of its network.

    Attributes:
        shapes: Shape of each layer's weight, `(out, in, *kernel)`, by parameter name.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of weights of each layer."""
        return {name: prod(shape) for name, shape in self.shapes.items()}

    @property
    def total(self) -> int:
        """Number of weights of all layers."""
        return sum(self.sizes.values())

    def counts(self, densities: Mapping[str, float]) -> dict[str, int]:
        """Return the number of active weights of each layer at its density, rounded up, so that none is empty."""
        # Rounding first: 0.15 * 100 is 15.000000000000002 in binary floating point.
        return {name: max(1, ceil(round(densities[name] * size, 6))) for name, size in self.sizes.items()}


def read_template(protocol: Mapping[str, Any], width: float | None = None) -> Template:
    """Return the template of a search, or of another width of its network.

    Raises:
        ValueError: If the network can't be imported or made, or has no weights to search.
        TypeError: If it is no module.
    """
    found = _weights(make_network(protocol, width), protocol)
    return Template({name: tuple(weight.parameter.shape) for name, weight in found.items()})


def _weights(network: nn.Module, protocol: Mapping[str, Any]) -> dict[str, Weight]:
    """Return the weights whose densities are searched, by their names in the template."""
    chosen = {name: None if protocol[name] is None else list(protocol[name]) for name in ("include", "exclude")}
    return find_weights(network, **chosen)


def make_network(protocol: Mapping[str, Any], width: float | None = None) -> nn.Module:
    """Return the search's network, newly initialized by PyTorch's random state.

    Raises:
        ValueError: If it can't be imported, or doesn't take its options.
        TypeError: If it is no module.
    """
    make = import_callable(protocol["model"], expected="a class or function that makes a network")
    options = {**protocol["model_options"], **({} if width is None else {protocol["width"]: width})}
    _check_takes(make, options, protocol["model"])
    network = make(**options)
    if not isinstance(network, nn.Module):
        raise InvalidTypeError(
            expected=f"that {protocol['model']} makes a torch.nn.Module",
            got=f"a {type(network).__name__}",
            cure="the import path of a class of networks, or of a function that returns one",
        )
    return network


def _check_takes(make: Callable[..., Any], options: Mapping[str, Any], name: str) -> None:
    try:
        taken = signature(make)
    except ValueError:  # some classes of C have none
        return
    try:
        taken.bind(**options)
    except TypeError as error:
        raise InvalidValueError(
            expected=f"options that {name} takes",
            got=f"{', '.join(options) or 'none'} ({error})",
            cure="check model_options, and width, the name of the option for its width",
        ) from error


def make_module(protocol: Mapping[str, Any], width: float | None = None) -> LightningModule:
    """Return the module that is trained: the network itself if it is a LightningModule, else an `ImageClassifier`.

    Raises:
        ValueError: If a network has no optimizer, or a LightningModule gets one.
    """
    network = make_network(protocol, width)
    if is_a(network, "LightningModule"):
        if protocol["optimizer"] is not None or protocol["lr_scheduler"] is not None:
            raise InvalidValueError(
                expected="no optimizer and no lr_scheduler for a LightningModule, which makes its own",
                got=protocol["model"],
                cure="leave them out",
            )
        return network  # type: ignore[return-value]  # one of the two LightningModules
    if protocol["optimizer"] is None:
        raise InvalidValueError(
            expected="an optimizer for a template that is no LightningModule",
            got=None,
            cure="optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}, for instance",
        )
    schedule = (
        None if protocol["lr_scheduler"] is None else _partial(protocol["lr_scheduler"], "learning rate schedule")
    )
    return ImageClassifier(
        network,
        optimizer=_partial(protocol["optimizer"], "class of optimizers"),
        lr_scheduler=schedule,
        lr_interval=protocol["lr_interval"],
        num_classes=output_count(network),
    )


def _partial(options: Mapping[str, Any], noun: str) -> Callable[..., Any]:
    return partial(import_callable(options["class_path"], expected=f"a {noun}"), **options.get("init_args", {}))


def searched_sizes(module: LightningModule, protocol: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of weights of each layer whose density is searched, by its name in the template."""
    network, _ = _network_in(module, protocol)
    return {name: weight.parameter.numel() for name, weight in _weights(network, protocol).items()}


def name_in_module(name: str, module: LightningModule, protocol: Mapping[str, Any]) -> str:
    """Return the name in a module of a weight of the template."""
    return f"{_network_in(module, protocol)[1]}{name}"


def _network_in(module: LightningModule, protocol: Mapping[str, Any]) -> tuple[nn.Module, str]:
    """Return the template in a module, and what the names of its parameters begin with there."""
    is_wrapped = protocol["optimizer"] is not None
    return (module.model, "model.") if is_wrapped else (module, "")  # type: ignore[return-value]  # a module


def make_masks(
    module: LightningModule, protocol: Mapping[str, Any], architecture: Architecture, seed: int
) -> dict[str, Tensor]:
    """Return random masks of a module with an architecture's number of active weights in each layer.

    Args:
        module: Module that `make_module` made.
        protocol: Protocol of the training.
        architecture: Active weights and width of the network.
        seed: Seed of the masks.
    """
    generator, rule = mask_generator(seed), as_initial_masks("random")
    network, prefix = _network_in(module, protocol)
    return {
        f"{prefix}{name}": layer_mask(name, weight.parameter, architecture.counts[name], rule, generator)
        for name, weight in _weights(network, protocol).items()
    }


def make_data(protocol: Mapping[str, Any], root: Path, seed: int) -> LightningDataModule:
    """Return the data of a training, whose batches depend on the seed only.

    Args:
        protocol: Protocol of the training.
        root: Folder of the data sets. If it has an `.npz` file with the data set's name, that file is used.
        seed: Seed of the order of batches.
    """
    data = protocol["data"]
    make = import_callable(data["class_path"], expected="a class of LightningDataModules")
    accepted = _accepted(make)
    arrays = root / f"{data.get('name', '')}.npz"
    chosen: dict[str, Any] = {"data_dir": arrays if arrays.is_file() else root} if "data_dir" in accepted else {}
    for name, value in (("batch_size", protocol["batch_size"]), ("shuffle_seed", seed)):
        if name in accepted:
            chosen[name] = value
    own = data.get("init_args", {})
    if twice := sorted({*chosen} & {*own}):
        raise InvalidValueError(
            expected=f"init_args of data without {', '.join(twice)}, which the search gives",
            got=dict(own),
            cure="batch_size and seed are options of the search, the folder one of the command",
        )
    made: LightningDataModule = make(**chosen, **own)
    return made


def _accepted(make: Callable[..., Any]) -> set[str]:
    """Return the names of the options of a class, and of the base classes that it hands others on to."""
    names: set[str] = set()
    constructors = (
        [vars(cls)["__init__"] for cls in make.__mro__ if "__init__" in vars(cls)] if isinstance(make, type) else [make]
    )
    for constructor in constructors:
        parameters = signature(constructor).parameters
        names |= set(parameters)
        if not any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values()):
            break
    return names
