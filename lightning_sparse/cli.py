"""The command line: `lightning-sparse demo | configs | reproduce | report | fit | validate | test | predict`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import jsonargparse

from lightning_sparse import configs
from lightning_sparse._version import __version__
from lightning_sparse.demo import demo
from lightning_sparse.experiment import SparseCLI
from lightning_sparse.report import report
from lightning_sparse.reproduction import reproduce

_USAGE = """\
lightning-sparse: train sparse neural networks from scratch

  lightning-sparse demo                       a dense and a 5 % network on handwritten digits, in about a minute
  lightning-sparse configs                    list the shipped experiments
  lightning-sparse reproduce TABLE            run a table of the paper again: table1, table2, table2_as_coded, table3,
                                              table5, figure2, compression, sensitivity or regrowth
  lightning-sparse report RUN_DIR             one HTML page about a run; --other RUN_DIR compares two
  lightning-sparse fit --config NAME_OR_FILE  train; likewise validate, test, predict
  lightning-sparse COMMAND --help             options of a command
  lightning-sparse --version
"""


def list_configs() -> None:
    """List the shipped experiments by name."""
    titles = configs.available()
    width = max(map(len, titles))
    for name, title in titles.items():
        print(f"{name:<{width}}  {title}")


_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "configs": list_configs,
    "reproduce": reproduce,
    "report": report,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: What follows the program's name; default: what this process was called with.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given[0] if given else "--help"
    if command in ("-h", "--help"):
        print(_USAGE)
    elif command == "--version":
        print(__version__)
    elif command in _COMMANDS:
        try:
            jsonargparse.auto_cli(_COMMANDS[command], args=given[1:], as_positional=True)
        except (ValueError, FileNotFoundError) as error:
            sys.exit(f"lightning-sparse: {error}")
    else:
        SparseCLI(given)
