"""The command line: `lightning-sparse demo | configs | reproduce | compare | search | report | fit | ...`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jsonargparse

from lightning_sparse import configs
from lightning_sparse._version import __version__
from lightning_sparse.cli.errors import user_message

_USAGE = """\
lightning-sparse: train sparse neural networks from scratch

  lightning-sparse demo                       a dense and a 5 % network on handwritten digits, in about 20 seconds
  lightning-sparse configs                    list the shipped experiments
  lightning-sparse reproduce TABLE            reproduce a table of the paper: table1, table2, table2_as_coded, table3,
                                              table5, figure2, compression, sensitivity or regrowth
  lightning-sparse compare STUDY              sparse against dense networks of the same capacity: pairs, tests, a page
  lightning-sparse search SEARCH              the best density of each layer: trials, controls, a page
  lightning-sparse report RUN_DIR             one HTML page about a run; --other RUN_DIR compares two
  lightning-sparse fit --config NAME_OR_FILE  train; validate, test and predict take the same options
  lightning-sparse COMMAND --help             options of a command
  lightning-sparse --version
"""


def list_configs() -> None:
    """List the shipped experiments by name."""
    titles = configs.available()
    width = max(map(len, titles))
    for name, title in titles.items():
        print(f"{name:<{width}}  {title}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    A `UsageError` ends it with one line, and so does Ctrl+C, with status 130; other errors keep their traceback.

    Args:
        arguments: Arguments after the program's name. Default: those of this process.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _find_users_modules()
    command = arguments[0] if arguments else "--help"
    try:
        _run(command, arguments)
    except (KeyboardInterrupt, SystemExit) as end:  # a Trainer turns the first into the second
        if not isinstance(end, KeyboardInterrupt) and not isinstance(end.__context__, KeyboardInterrupt):
            raise
        hint = "; the same command resumes" if command in ("reproduce", "compare", "search") else ""
        print(f"lightning-sparse: interrupted{hint}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if text := user_message(error):
            sys.exit(f"lightning-sparse: {text}")
        raise


def _find_users_modules() -> None:
    """Let import paths in YAML files lead to modules in the current folder, as with ``python -m``."""
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        sys.path.append(here)


def _run(command: str, arguments: list[str]) -> None:
    if command in ("-h", "--help"):
        print(_USAGE)
    elif command == "--version":
        print(__version__)
    elif function := _function(command):
        jsonargparse.auto_cli(function, args=arguments[1:], as_positional=True)
    else:
        from lightning_sparse.experiments.sparse_cli import SparseCLI

        SparseCLI(arguments)


def _function(command: str) -> Callable[..., None] | None:
    """Return the function of a command, None for Lightning's; it is imported here, as PyTorch takes seconds."""
    if command == "configs":
        return list_configs
    if command == "demo":
        from lightning_sparse.cli.demo import demo

        return demo
    if command == "reproduce":
        from lightning_sparse.reproduction import reproduce

        return reproduce
    if command == "compare":
        from lightning_sparse.comparison import compare

        return compare
    if command == "search":
        from lightning_sparse.search import search

        return search
    if command == "report":
        from lightning_sparse.report import report

        return report
    return None
