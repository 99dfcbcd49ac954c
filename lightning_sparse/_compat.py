"""Lightning under both of its names.

`lightning.pytorch` and `pytorch_lightning` are two packages with two sets of classes. A Trainer of either accepts its
own callbacks only, at least where it looks; so our callbacks inherit from both, where both are installed. What builds
a module or a Trainer of its own uses the first package that is there.

Whether an object is of some Lightning class is asked by the class's name (`is_a`), which both packages share.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lightning_sparse.validation.errors import MissingPackageError, UsageError

NAMES = ("lightning.pytorch", "pytorch_lightning")
# Where both are installed, the one that is imported last logs for both.
_LOGGERS = (*NAMES, "lightning.fabric", "lightning_fabric")


def _installed() -> list[ModuleType]:
    found = []
    for name in NAMES:
        try:
            found.append(import_module(name))
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):  # it is there, but something that it needs is not
                raise
    if not found:
        raise MissingPackageError(
            expected="the package lightning or pytorch_lightning",
            got="neither",
            cure="pip install lightning",
        )
    return found


def _of_both(path: str) -> type:
    """Return a class that is a subclass of the class at this path in each installed package."""
    module, _, name = path.rpartition(".")
    bases = tuple(
        getattr(import_module(f"{package.__name__}.{module}" if module else package.__name__), name)
        for package in _PACKAGES
    )
    return type(name, bases, {"__doc__": bases[0].__doc__, "__module__": __name__}) if len(set(bases)) > 1 else bases[0]


def is_a(instance: object, *names: str) -> bool:
    """Tell whether an object's class, or one that it inherits from, has one of these names."""
    return any(cls.__name__ in names for cls in type(instance).__mro__)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return a Trainer's callbacks, an attribute that Lightning doesn't declare."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]  # see above


@contextmanager
def without_messages() -> Iterator[None]:
    """Silence inside what Lightning logs below the level of errors, and all warnings."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_PACKAGES = _installed()

if TYPE_CHECKING:
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.cli import LightningCLI, LRSchedulerCallable, OptimizerCallable, SaveConfigCallback
    from lightning.pytorch.loggers.logger import DummyLogger
    from lightning.pytorch.strategies import DDPStrategy
    from lightning.pytorch.utilities.seed import isolate_rng
else:
    Callback = _of_both("Callback")
    MisconfigurationException = _of_both("utilities.exceptions.MisconfigurationException")
    LightningDataModule = _PACKAGES[0].LightningDataModule
    LightningModule = _PACKAGES[0].LightningModule
    Trainer = _PACKAGES[0].Trainer
    seed_everything = _PACKAGES[0].seed_everything

    # Looked up when asked for: the command line's part takes half a second to import, which others needn't wait for.
    _LATER = {
        "DDPStrategy": "strategies",
        "DummyLogger": "loggers.logger",
        "LRSchedulerCallable": "cli",
        "LightningCLI": "cli",
        "ModelCheckpoint": "callbacks",
        "OptimizerCallable": "cli",
        "SaveConfigCallback": "cli",
        "isolate_rng": "utilities.seed",
    }

    def __getattr__(name: str) -> Any:
        if name in _LATER:
            return getattr(import_module(f"{_PACKAGES[0].__name__}.{_LATER[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class ConfigurationError(UsageError, MisconfigurationException):
    """A Trainer, strategy or callback can't be used together with what is asked for."""


__all__ = [
    "Callback",
    "ConfigurationError",
    "DDPStrategy",
    "DummyLogger",
    "LRSchedulerCallable",
    "LightningCLI",
    "LightningDataModule",
    "LightningModule",
    "MisconfigurationException",
    "ModelCheckpoint",
    "OptimizerCallable",
    "SaveConfigCallback",
    "Trainer",
    "callbacks_of",
    "is_a",
    "isolate_rng",
    "seed_everything",
    "without_messages",
]
