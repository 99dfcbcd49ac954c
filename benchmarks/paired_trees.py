"""Is this checkout slower than that one, on a machine too noisy for `two_trees.py`? Both in one process, turn by turn.

    python benchmarks/paired_trees.py BEFORE . {update,training,enforcement} [--pairs 40]

Two processes differ by where their memory lies and by what else the machine does meanwhile; on a shared machine that
may be 20 %. Here both packages are imported, each with its own modules, and what `hot_paths.py` measures is done by one
and the other in turn: a pair lies within a second. Run it with the checkouts swapped, too, or with one against a copy
of itself: for where its memory lies, the second of two equal ones was 3 % slower at an update. Prints the median of the
ratios of CPU times, second by first, with a 95 % interval (percentile bootstrap of the pairs).
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")
PACKAGE = "lightning_sparse"
RESAMPLES = 5000


def ours() -> list[str]:
    """Return the names of the package's modules that are imported."""
    return [name for name in sys.modules if name.partition(".")[0] == PACKAGE]


class Side:
    """One checkout's package, with what is measured.

    Args:
        tree: The checkout.
        path: Name of the hot path.
    """

    def __init__(self, tree: Path, path: str) -> None:
        self._tree, self._modules = str(tree.resolve()), dict[str, ModuleType]()
        self._prepare, self._run = self._with_modules(lambda: _hot_path(self._tree, path))
        self.seconds()  # what it imports while it runs is then there

    def seconds(self) -> float:
        """Return the CPU time of one round."""
        return self._with_modules(self._timed)

    def _timed(self) -> float:
        self._prepare()
        begin = time.process_time()
        self._run()
        return time.process_time() - begin

    def _with_modules(self, function: Callable[[], T]) -> T:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(self._modules)
        sys.path.insert(0, self._tree)
        try:
            return function()
        finally:
            sys.path.remove(self._tree)
            self._modules = {name: sys.modules[name] for name in ours()}


def _hot_path(tree: str, path: str) -> tuple[Callable[[], object], Callable[[], object]]:
    spec = importlib.util.spec_from_file_location(f"hot_paths_{hash(tree)}", Path(__file__).with_name("hot_paths.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    prepare, run, _ = module.PATHS[path]()
    if not str(sys.modules[PACKAGE].__file__).startswith(tree):
        raise SystemExit(
            f"Expected the package of {tree}; got {sys.modules[PACKAGE].__file__}. Cure: unset PYTHONPATH."
        )
    return prepare, run


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs=2, type=Path)
    parser.add_argument("path", choices=["update", "training", "enforcement"])
    parser.add_argument("--pairs", type=int, default=40)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    first, second = (Side(tree, options.path) for tree in options.trees)
    ratios = []
    for pair in range(options.pairs):
        if pair % 2:
            before, after = first.seconds(), second.seconds()
        else:
            after, before = second.seconds(), first.seconds()
        ratios.append(after / before)
    source = random.Random(0)
    medians = sorted(statistics.median(source.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    low, high = medians[round(0.025 * RESAMPLES)], medians[round(0.975 * RESAMPLES) - 1]
    print(
        f"{options.path}: median of {len(ratios)} ratios {statistics.median(ratios):.4f}, 95 % {low:.4f} to {high:.4f}"
    )


if __name__ == "__main__":
    main()
