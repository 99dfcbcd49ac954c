"""LightningCLI for our and any user's modules and data: builds trainer, model and data from configurations."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from lightning_sparse import callbacks, configs, data, models
from lightning_sparse._compat import LightningCLI, LightningDataModule, LightningModule, SaveConfigCallback
from lightning_sparse.experiments.option_names import check_option_names
from lightning_sparse.validation.errors import InvalidValueError, UsageError

_USAGE_ERROR = re.compile(r"Expected .+; got .+\. Cure: .+")


class SparseCLI(LightningCLI):
    """LightningCLI over any module and data; ours are found by their class names alone.

    Args:
        args: Arguments of `lightning-sparse`; `--config` also takes names of shipped configurations.
        run: Whether to run the subcommand that the arguments begin with; False only builds trainer, model and data.
    """

    def __init__(self, args: Sequence[str], run: bool = True) -> None:
        with warnings.catch_warnings():
            # Lightning warns of arguments that don't come from the command line directly; these do, names replaced.
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            super().__init__(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=SaveConfigCallback if run else None,
                save_config_kwargs={"overwrite": True},
                args=_with_config_files(args),
                run=run,
            )

    def instantiate_classes(self) -> None:
        """Build trainer, model and data.

        Raises:
            InvalidValueError: If one of them refuses an argument, also where the parser passes that on as text.
        """
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            # jsonargparse 4.41 joins the errors of all types that an argument may have into one text.
            if not isinstance(error, UsageError) and (message := _USAGE_ERROR.search(str(error))):
                raise InvalidValueError(message[0]) from error
            raise


def _with_config_files(arguments: Sequence[str]) -> list[str]:
    """Replace the names of shipped configurations by their files."""
    replaced: list[str] = []
    for argument in arguments:
        flag, equals, name = argument.partition("=")
        try:
            if replaced and replaced[-1] in ("--config", "-c"):
                argument = str(_checked(argument))
            elif flag in ("--config", "-c") and equals:
                argument = f"{flag}={_checked(name)}"
        except ValueError as error:
            sys.exit(f"lightning-sparse: {error}")
        replaced.append(argument)
    return replaced


def _checked(name: str) -> Path:
    path = configs.find(name)
    check_option_names(path)
    return path


# Importing them makes the class names known to the command line.
__all__ = ["SparseCLI", "callbacks", "data", "models"]
