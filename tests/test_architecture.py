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

# A unit is a module or package right below ours; "" is the package's own __init__.
BINDING = {"network", "masks", "signals", "sharded", "state", "seeding", "stepping", "budget", "maskable", "patterns"}
PURE = {"topology", *BINDING}
MAY_USE: dict[str, set[str]] = {
    "_version": set(),
    "topology": {"topology"},
    **dict.fromkeys(BINDING, PURE),
    "analysis": {"analysis", *PURE},
    "deploy": {"deploy", *PURE},
    "models": {"models", "_compat"},
    "data": {"data", "_compat"},
    "configs": {"configs"},
    "refusal": set(),
    "_compat": {"_compat"},
    "callbacks": {"callbacks", "analysis", "deploy", "_compat", *PURE},
}
LIBRARY = {*MAY_USE, ""}
MAY_USE |= {
    "comparison": {"comparison", *LIBRARY},
    "search": {"search", "comparison", *LIBRARY},
    "testing": {"testing", "_compat", *LIBRARY},
    "demo": {"demo", "comparison", "search", *LIBRARY},
    "experiment": {"experiment", *LIBRARY},
    "reproduction": {"reproduction", "experiment", *LIBRARY},
    "report": {"report", *LIBRARY},
    "__main__": {"__main__", "cli"},
    "cli": {"cli", "demo", "experiment", "report", "reproduction", "comparison", "search", *LIBRARY},
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


def complaints(root: Path) -> list[str]:
    """Return one line for each import below a package's directory that points the wrong way."""
    units = {path.stem for path in root.iterdir() if path.suffix == ".py" or path.is_dir()}
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        unit = "" if parts[0] == "__init__" else parts[0]
        package = ".".join([PACKAGE, *parts[:-1]])
        for name in sorted(imported(path.read_text(encoding="utf-8"), package)):
            if reason := _objection(unit, name, units):
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


def test_imports_point_one_way() -> None:
    assert complaints(ROOT) == []


def test_the_check_sees_the_imports_that_the_package_has() -> None:
    seen = imported((ROOT / "network.py").read_text(encoding="utf-8"), PACKAGE)
    assert {"torch.nn", "lightning_sparse.topology.rewire.Recipe", "lightning_sparse.maskable.find_weights"} <= seen
    assert len(list(ROOT.rglob("*.py"))) > 20


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("topology/rewire.py", "from lightning_sparse.network import SparseNetwork"),
        ("topology/rewire.py", "import lightning_sparse.network"),
        ("topology/rewire.py", "import lightning_sparse.network as network"),
        ("topology/rewire.py", "from lightning_sparse import network"),
        ("topology/rewire.py", "from lightning_sparse import SparseNetwork"),
        ("topology/growth/random.py", "from ...signals import Signals"),
        ("topology/growth/random.py", "from ... import budget"),
        ("topology/rewire.py", "from .. import maskable"),
        ("topology/rewire.py", "def late():\n    from lightning_sparse.callbacks import history"),
        ("topology/rewire.py", "if TYPE_CHECKING:\n    import lightning.pytorch"),
        ("topology/rewire.py", "import scipy.optimize"),
        ("network.py", "from lightning_sparse.callbacks import SparseTrainingCallback"),
        ("network.py", "from .analysis import density"),
        ("signals.py", "from pytorch_lightning import Trainer"),
        ("budget.py", "import sklearn"),
        ("maskable.py", "from lightning_sparse import models"),
        ("callbacks/history.py", "from lightning_sparse.data import mnist"),
        ("callbacks/history.py", "from ..models import LeNet"),
        ("models/lenet.py", "from lightning_sparse.topology import rewire"),
        ("models/lenet.py", "from lightning_sparse.data import mnist"),
        ("data/mnist.py", "from lightning_sparse.models import LeNet"),
        ("data/mnist.py", "from lightning_sparse import SparseNetwork"),
        ("analysis/flow.py", "import lightning.pytorch"),
        ("analysis/flow.py", "from lightning_sparse.callbacks.history import UpdateRecord"),
        ("__init__.py", "from lightning_sparse.cli import main"),
        ("callbacks/history.py", "import lightning_sparse.cli"),
        ("callbacks/history.py", "from lightning.pytorch import Callback"),
        ("cli.py", "from pytorch_lightning.cli import LightningCLI"),
        ("demo.py", "from lightning_sparse import cli"),
        ("newcomer.py", "import torch"),
        ("testing/contract.py", "import pytest"),
        ("testing/evidence.py", "from hypothesis import strategies"),
        ("testing/contract.py", "from lightning_sparse import cli"),
        ("callbacks/history.py", "from lightning_sparse.testing import check_growth"),
        ("topology/rewire.py", "from lightning_sparse import testing"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, module: str, statement: str) -> None:
    for unit in ("cli", "network", "budget", "maskable", "signals", "demo"):
        (tmp_path / f"{unit}.py").write_text("import torch\n", encoding="utf-8")
    for unit in ("analysis", "callbacks", "data", "models", "testing", "topology"):
        (tmp_path / unit).mkdir()
    assert complaints(tmp_path) == []
    planted = tmp_path / module
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f"import torch\n{statement}\n", encoding="utf-8")
    found = complaints(tmp_path)
    assert found
    assert all(line.startswith(module) for line in found)


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("topology/rewire.py", "import numpy as np, math\nfrom torch import Tensor\nfrom .plan import plan_changes"),
        ("topology/growth/random.py", "from ..layer import LayerView"),
        ("network.py", "from lightning_sparse.topology import rewire\nfrom .signals import Signals"),
        ("callbacks/history.py", "from lightning_sparse._compat import Callback\nfrom lightning_sparse import network"),
        ("cli.py", "from lightning_sparse import SparseNetwork, demo\nfrom lightning_sparse._compat import Trainer"),
        ("_compat.py", "import lightning.pytorch\nimport pytorch_lightning"),
        (
            "testing/callback.py",
            "from lightning_sparse.callbacks import history\nfrom lightning_sparse._compat import Trainer",
        ),
        ("data/mnist.py", "from sklearn.datasets import fetch_openml\nfrom ._cache import folder"),
    ],
)
def test_an_import_that_points_the_right_way_is_let_through(tmp_path: Path, module: str, statement: str) -> None:
    for unit in ("network", "signals", "demo", "_compat"):
        (tmp_path / f"{unit}.py").touch()
    for unit in ("callbacks", "topology"):
        (tmp_path / unit).mkdir()
    (tmp_path / module).parent.mkdir(exist_ok=True)
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
