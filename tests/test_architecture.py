"""Imports point one way: from the command line down to pure functions of tensors."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import lightning_sparse

PACKAGE = "lightning_sparse"
ROOT = Path(lightning_sparse.__file__).parent

# A unit is a room (a folder) or module right below ours; "" is the package's own __init__.
VALIDATION = {"validation"}
TOPOLOGY = {"topology", *VALIDATION}
SELECTION = {"selection", *VALIDATION}
NETWORK = {"network", *SELECTION, *TOPOLOGY}
PURE = NETWORK
ANALYSIS = {"analysis", *NETWORK}
EXECUTION = {"execution", *NETWORK}
DEPLOY = {"deploy", "execution", *NETWORK}
METHODS = {"methods", "execution", *NETWORK}
ROUNDS = {"rounds", *METHODS}
CALLBACKS = {"callbacks", "methods", "rounds", "execution", "deploy", "analysis", "_compat", *NETWORK}
LIBRARY = {*CALLBACKS, "models", "data", "configs", "_version", ""}
EXPERIMENTS = {"experiments", *LIBRARY}
MAY_USE: dict[str, set[str]] = {
    "_version": set(),
    "_compat": {"_compat", *VALIDATION},
    "validation": VALIDATION,
    "topology": TOPOLOGY,
    "selection": SELECTION,
    "network": NETWORK,
    "analysis": ANALYSIS,
    "execution": EXECUTION,
    "deploy": DEPLOY,
    "methods": METHODS,
    "rounds": ROUNDS,
    "models": {"models", "_compat", *VALIDATION},
    "data": {"data", "_compat", *VALIDATION},
    "configs": {"configs", *VALIDATION},
    "callbacks": CALLBACKS,
    "testing": {"testing", *LIBRARY},
    "report": {"report", *LIBRARY},
    "experiments": EXPERIMENTS,
    "reproduction": {"reproduction", *EXPERIMENTS},
    "comparison": {"comparison", "report", *EXPERIMENTS},
    "search": {"search", "comparison", "report", *EXPERIMENTS},
    "cli": {"cli", "report", "reproduction", "comparison", "search", *EXPERIMENTS},
    "__main__": {"__main__", "cli"},
    "": {"comparison", "search", *LIBRARY},
}
# The package has two names and two sets of classes; one module knows.
MAY_IMPORT_LIGHTNING = {"_compat"}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
# What our tests are run with, which users need not have.
TEST_TOOLS = {"pytest", "_pytest", "hypothesis"}
# What topology and the objects that bind it to a model may import besides the standard library.
BASICS = {"torch", "numpy"}

ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/~}])/(?:home|root|tmp|work|mnt|media|usr|opt|var|srv|data|Users|content)/|\b[A-Z]:\\\w"
)


def imported(source: str, package: str) -> set[str]:
    """Return the dotted names that a module's import statements name, wherever in the module they stand.

    Args:
        source: Text of the module.
        package: Dotted name of the package that relative imports start from.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


# What every wing of the callbacks may import; wings don't import each other.
SHARED_BY_WINGS = {"probing", "cadence"}


def complaints(root: Path) -> list[str]:
    """Return one line for each import below a package's directory that points the wrong way."""
    units = {path.stem for path in root.iterdir() if path.suffix == ".py" or path.is_dir()}
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        unit = "" if parts[0] == "__init__" else parts[0]
        package = ".".join([PACKAGE, *parts[:-1]])
        for name in sorted(imported(path.read_text(encoding="utf-8"), package)):
            if reason := _objection(unit, name, units) or _objection_between_wings(parts, name):
                found.append(f"{path.relative_to(root)} imports {name}: {reason}")
    return found


def _objection(unit: str, name: str, units: set[str]) -> str:
    if unit not in MAY_USE:
        return f"{unit!r} has no place in MAY_USE yet"
    top, _, rest = name.partition(".")
    if top == PACKAGE:
        target = rest.partition(".")[0]
        target = target if target in units else ""  # a name that our __init__ defines
        return "" if target in MAY_USE[unit] else "points the wrong way"
    if top in TEST_TOOLS:
        return "the package is used without the tools that test it"
    if top in LIGHTNING and unit not in MAY_IMPORT_LIGHTNING:
        return "Lightning comes from _compat"
    if unit in PURE and top not in BASICS | sys.stdlib_module_names:
        return "topology and network need PyTorch, NumPy and the standard library only"
    return ""


def _objection_between_wings(parts: tuple[str, ...], name: str) -> str:
    """Return why a module below `callbacks` may not import a name; "" if it may, or is somewhere else."""
    if parts[0] != "callbacks" or parts[1] in ("__init__", "figures"):  # the door, and an old name
        return ""
    package = f"{PACKAGE}.callbacks"
    if name == package:
        return "callbacks/__init__ imports every wing"
    if not name.startswith(f"{package}."):
        return ""
    target = name.removeprefix(f"{package}.").partition(".")[0]
    if target in SHARED_BY_WINGS or target == parts[1]:
        return ""
    return f"{parts[1]} may import {' and '.join(sorted(SHARED_BY_WINGS))} only"


def test_imports_point_one_way() -> None:
    assert complaints(ROOT) == []


def test_the_check_sees_the_imports_that_the_package_has() -> None:
    seen = imported((ROOT / "network" / "rewirable_model.py").read_text(encoding="utf-8"), PACKAGE)
    assert {
        "torch.nn",
        "lightning_sparse.topology.recipe.Recipe",
        "lightning_sparse.network.masks.Masks",
    } <= seen
    assert len(list(ROOT.rglob("*.py"))) > 20


# What stands in the planted houses below: every room, and a module in each that a plan has today.
ROOMS = (
    "analysis",
    "callbacks",
    "cli",
    "data",
    "experiments",
    "models",
    "network",
    "selection",
    "testing",
    "topology",
    "validation",
)


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("topology/rewire.py", "from lightning_sparse.network import SparseNetwork"),
        ("topology/rewire.py", "import lightning_sparse.network"),
        ("topology/rewire.py", "import lightning_sparse.network as network"),
        ("topology/rewire.py", "from lightning_sparse import network"),
        ("topology/rewire.py", "from lightning_sparse import SparseNetwork"),
        ("topology/growth/random.py", "from ...network.signals import Signals"),
        ("topology/growth/random.py", "from ... import network"),
        ("topology/rewire.py", "from .. import selection"),
        ("topology/rewire.py", "def late():\n    from lightning_sparse.callbacks import sparse_training"),
        ("topology/rewire.py", "if TYPE_CHECKING:\n    import lightning.pytorch"),
        ("topology/rewire.py", "import scipy.optimize"),
        ("selection/weights.py", "from lightning_sparse.topology.layer import LayerView"),
        ("selection/weights.py", "from lightning_sparse.network.masks import Masks"),
        ("selection/weights.py", "from lightning_sparse import models"),
        ("network/sparse_network.py", "from lightning_sparse.callbacks import SparseTrainingCallback"),
        ("network/sparse_network.py", "from ..analysis import density"),
        ("network/signals.py", "from pytorch_lightning import Trainer"),
        ("network/budget.py", "import sklearn"),
        ("callbacks/sparse_training/reporting.py", "from lightning_sparse.data import mnist"),
        ("callbacks/sparse_training/reporting.py", "from ...models import LeNet"),
        ("models/lenet.py", "from lightning_sparse.topology import rewire"),
        ("models/lenet.py", "from lightning_sparse.data import mnist"),
        ("data/mnist.py", "from lightning_sparse.models import LeNet"),
        ("data/mnist.py", "from lightning_sparse import SparseNetwork"),
        ("analysis/flow.py", "import lightning.pytorch"),
        ("analysis/flow.py", "from lightning_sparse.callbacks.sparse_training.reporting import log_sparsity"),
        ("__init__.py", "from lightning_sparse.cli import main"),
        ("callbacks/sparse_training/reporting.py", "import lightning_sparse.cli"),
        ("callbacks/sparse_training/reporting.py", "from lightning.pytorch import Callback"),
        ("callbacks/sparse_training/reporting.py", "from lightning_sparse.experiments import sparse_cli"),
        ("callbacks/gradient_flow/callback.py", "from lightning_sparse.callbacks.sparse_training import callback"),
        ("callbacks/gradient_flow/callback.py", "from ..class_specialization.records import drawn"),
        ("callbacks/class_specialization/callback.py", "import lightning_sparse.callbacks.gradient_flow.layers"),
        ("callbacks/class_specialization/callback.py", "from lightning_sparse.callbacks import SparseTrainingCallback"),
        ("callbacks/sparse_training/callback.py", "from lightning_sparse.callbacks import gradient_flow"),
        ("callbacks/sparse_training/callback.py", "import lightning_sparse.callbacks"),
        ("callbacks/probing/gradients.py", "from lightning_sparse.callbacks.gradient_flow.records import average"),
        ("callbacks/cadence.py", "from .sparse_training.reporting import log_sparsity"),
        ("experiments/training_process.py", "from lightning_sparse.reproduction import paper_tables"),
        ("cli/entry_point.py", "from pytorch_lightning.cli import LightningCLI"),
        ("experiments/sparse_cli.py", "from lightning_sparse import cli"),
        ("validation/numbers.py", "from lightning_sparse.topology import rewire"),
        ("newcomer.py", "import torch"),
        ("newcomer/module.py", "import torch"),
        ("testing/contract.py", "import pytest"),
        ("testing/evidence.py", "from hypothesis import strategies"),
        ("testing/contract.py", "from lightning_sparse import cli"),
        ("callbacks/sparse_training/reporting.py", "from lightning_sparse.testing import check_growth"),
        ("topology/rewire.py", "from lightning_sparse import testing"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, module: str, statement: str) -> None:
    for room in (*ROOMS, "reproduction"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("import torch\n", encoding="utf-8")
    assert complaints(tmp_path) == []
    planted = tmp_path / module
    planted.parent.mkdir(exist_ok=True, parents=True)
    planted.write_text(f"import torch\n{statement}\n", encoding="utf-8")
    found = complaints(tmp_path)
    assert found
    assert all(line.startswith(module) for line in found)


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("topology/rewire.py", "import numpy as np, math\nfrom torch import Tensor\nfrom .plan import plan_changes"),
        ("topology/growth/random.py", "from ..layer import LayerView"),
        ("network/budget.py", "from lightning_sparse.selection import weights"),
        ("network/sparse_network.py", "from lightning_sparse.topology import rewire\nfrom .signals import Signals"),
        (
            "callbacks/sparse_training/reporting.py",
            "from lightning_sparse._compat import Callback\nfrom lightning_sparse import network",
        ),
        (
            "callbacks/gradient_flow/callback.py",
            "from lightning_sparse.callbacks.probing.gradients import make_probe\n"
            "from lightning_sparse.callbacks.cadence import run_length\nfrom .records import average",
        ),
        ("callbacks/__init__.py", "from lightning_sparse.callbacks.sparse_training.reporting import log_sparsity"),
        ("callbacks/figures.py", "from lightning_sparse.callbacks.probing import figure_logging"),
        ("experiments/training_process.py", "from lightning_sparse import callbacks, data, models"),
        (
            "cli/entry_point.py",
            "from lightning_sparse import SparseNetwork\nfrom lightning_sparse.experiments import a",
        ),
        ("_compat.py", "import lightning.pytorch\nimport pytorch_lightning"),
        (
            "testing/callbacks/runs.py",
            "from lightning_sparse.callbacks import history\nfrom lightning_sparse._compat import Trainer",
        ),
        ("data/mnist.py", "from sklearn.datasets import fetch_openml\nfrom ._cache import folder"),
    ],
)
def test_an_import_that_points_the_right_way_is_let_through(tmp_path: Path, module: str, statement: str) -> None:
    for room in ROOMS:
        (tmp_path / room).mkdir()
    (tmp_path / "_compat.py").touch()
    (tmp_path / module).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / module).write_text(statement, encoding="utf-8")
    assert complaints(tmp_path) == []


def test_every_module_says_what_it_is_for() -> None:
    sources = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    assert [str(path) for path, source in sources.items() if not ast.get_docstring(ast.parse(source))] == []
    assert ast.get_docstring(ast.parse("from __future__ import annotations\n'''too late'''")) is None


def files_with_absolute_paths(root: Path) -> list[str]:
    """Return the text files below a directory in which a path from somebody's machine occurs."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix in {
            ".py",
            ".yaml",
            ".yml",
            ".json",
            ".toml",
            ".cfg",
            ".md",
            ".txt",
            ".typed",
        }:
            found += [str(path.relative_to(root))] if ABSOLUTE_PATH.search(path.read_text(encoding="utf-8")) else []
    return found


def test_no_file_has_a_path_from_somebodys_machine() -> None:
    assert files_with_absolute_paths(ROOT) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('root = "/home/me/data"', True),
        ("# see /opt/shared", True),
        ("data_dir: /data/mnist", True),
        (r'"C:\Users\me"', True),
        ("https://example.org/home/me", False),
        ("a ratio of out/in, or and/or", False),
        ('"~/data/mnist"', False),
        ('f"{root}/data/mnist"', False),
        ('Path("models/data/x.yaml")', False),
    ],
)
def test_a_planted_absolute_path_is_found(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "planted.yaml").write_text(text, encoding="utf-8")
    assert files_with_absolute_paths(tmp_path) == (["planted.yaml"] if expected else [])
