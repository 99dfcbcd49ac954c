"""The network that a search makes sparse, its data, and the masks of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
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
        return {name: ceil(round(densities[name] * size, 6)) for name, size in self.sizes.items()}


def read_template(protocol: Mapping[str, Any], width: float | None = None) -> Template:
    """Return the template of a search, or of another width of its network.

    Raises:
        ValueError: If the network can't be imported or made.
        TypeError: If it is no module.
    """
    network = make_network(protocol, width)
    found = find_weights(network, include=_patterns(protocol, "include"), exclude=_patterns(protocol, "exclude"))
    return Template({name: tuple(weight.parameter.shape) for name, weight in found.items()})


def _patterns(protocol: Mapping[str, Any], option: str) -> list[str] | None:
    given = protocol.get(option)
    return None if given is None else list(given)


def make_network(protocol: Mapping[str, Any], width: float | None = None) -> nn.Module:
    """Return the search's network, newly initialized by PyTorch's random state."""
    make = import_callable(protocol["model"], expected="a class or function that makes a network")
    wide = {} if width is None else {protocol["width"]: width}
    network = make(**{**protocol["model_options"], **wide})
    if not isinstance(network, nn.Module):
        raise InvalidTypeError(
            expected=f"that {protocol['model']} makes a torch.nn.Module",
            got=f"a {type(network).__name__}",
            cure="the import path of a class of networks, or of a function that returns one",
        )
    return network


def make_module(protocol: Mapping[str, Any], width: float | None = None) -> LightningModule:
    """Return the module that is trained: the network itself if it is a LightningModule, else an `ImageClassifier`.

    Raises:
        ValueError: If a network has no optimizer.
    """
    network = make_network(protocol, width)
    if is_a(network, "LightningModule"):
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


def make_masks(
    module: nn.Module, protocol: Mapping[str, Any], architecture: Architecture, seed: int
) -> dict[str, Tensor]:
    """Return random masks of a module with an architecture's number of active weights in each layer.

    Args:
        module: The LightningModule, or the network.
        protocol: Protocol of the training.
        architecture: Active weights and width of the network.
        seed: Seed of the masks.
    """
    generator, rule = mask_generator(seed), as_initial_masks("random")
    weights = find_weights(module, include=_patterns(protocol, "include"), exclude=_patterns(protocol, "exclude"))
    counts = architecture.counts.values()  # of the same layers, whose names may begin with that of the network
    return {
        name: layer_mask(name, weight.parameter, count, rule, generator)
        for (name, weight), count in zip(weights.items(), counts, strict=True)
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
    accepted = signature(make).parameters
    arrays = root / f"{data.get('name', '')}.npz"
    possible = {
        "data_dir": arrays if arrays.is_file() else root,
        "batch_size": protocol["batch_size"],
        "shuffle_seed": seed,
    }
    chosen = {name: value for name, value in possible.items() if name in accepted}
    made: LightningDataModule = make(**chosen, **data.get("init_args", {}))
    return made
