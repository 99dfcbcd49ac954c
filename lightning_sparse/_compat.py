"""Lightning under both of its names.

`lightning.pytorch` and `pytorch_lightning` are two packages with two sets of classes. A Trainer of either accepts its
own callbacks only, at least where it checks; so our callbacks inherit from both where both are installed. Our modules
and Trainers come from the first package that is installed.

`is_a` checks an object's class by name, which both packages share.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from lightning_sparse.validation.errors import MissingPackageError, UsageError
from lightning_sparse.validation.lazy_imports import lazy_imports

NAMES = ("lightning.pytorch", "pytorch_lightning")
# Where both are installed, the one that is imported last logs for both.
_LOGGERS = (*NAMES, "lightning.fabric", "lightning_fabric")


def _installed() -> list[ModuleType]:
    packages = []
    for name in NAMES:
        try:
            packages.append(import_module(name))
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):  # one of its dependencies is missing
                raise
    if not packages:
        raise MissingPackageError(
            expected="the package lightning or pytorch_lightning",
            got="neither",
            cure="pip install lightning",
        )
    return packages


def _of_both(path: str) -> type:
    """Return a class that is a subclass of the class at this path in each installed package."""
    module, _, name = path.rpartition(".")
    bases = tuple(
        getattr(import_module(f"{package.__name__}.{module}" if module else package.__name__), name)
        for package in _PACKAGES
    )
    return type(name, bases, {"__doc__": bases[0].__doc__, "__module__": __name__}) if len(set(bases)) > 1 else bases[0]


def is_a(instance: object, *names: str) -> bool:
    """Return whether an object's class or one of its base classes has one of these names."""
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

if TYPE_CHECKING:  # for type checkers and editors; tests/test_lazy_imports.py compares it with the names below
    from lightning.fabric.utilities.exceptions import MisconfigurationException as MisconfigurationException
    from lightning.pytorch import Callback as Callback
    from lightning.pytorch import LightningDataModule as LightningDataModule
    from lightning.pytorch import LightningModule as LightningModule
    from lightning.pytorch import Trainer as Trainer
    from lightning.pytorch import seed_everything as seed_everything
    from lightning.pytorch.callbacks import ModelCheckpoint as ModelCheckpoint
    from lightning.pytorch.cli import LightningCLI as LightningCLI
    from lightning.pytorch.cli import LRSchedulerCallable as LRSchedulerCallable
    from lightning.pytorch.cli import OptimizerCallable as OptimizerCallable
    from lightning.pytorch.cli import SaveConfigCallback as SaveConfigCallback
    from lightning.pytorch.loggers.logger import DummyLogger as DummyLogger
    from lightning.pytorch.plugins import MixedPrecision as MixedPrecision
    from lightning.pytorch.strategies import DDPStrategy as DDPStrategy
    from lightning.pytorch.utilities.seed import isolate_rng as isolate_rng
else:
    Callback = _of_both("Callback")
    MisconfigurationException = _of_both("utilities.exceptions.MisconfigurationException")

    # The command line's part takes half a second to import, which others needn't wait for.
    _NAMES, __getattr__ = lazy_imports(
        globals(),
        _PACKAGES[0].__name__,
        {
            "": ["LightningDataModule", "LightningModule", "Trainer", "seed_everything"],
            "callbacks": ["ModelCheckpoint"],
            "cli": ["LRSchedulerCallable", "LightningCLI", "OptimizerCallable", "SaveConfigCallback"],
            "loggers.logger": ["DummyLogger"],
            "plugins": ["MixedPrecision"],
            "strategies": ["DDPStrategy"],
            "utilities.seed": ["isolate_rng"],
        },
    )


class ConfigurationError(UsageError, MisconfigurationException):
    """A Trainer, strategy or callback can't be combined with the requested options."""
