"""Mutation testing of topology and network: do the tests notice small faults that are planted in the code?

    python tests/mutation/run.py --tree CHECKOUT --results benchmarks/results/mutation.txt [--number 300] [--seed 0]

A seeded sample of mutants is drawn from all lines of the two folders. Each mutant runs in a forked process, which has
the large libraries imported already, against the fastest tests that run its line; which tests do is measured once per
checkout and kept beside the results of that measurement (coverage with a context per test). Every result is appended
to the file at once, as `place | operator | change | outcome`, and mutants that are in the file are skipped. A mutant is
killed if a test fails, fails to import or takes longer than the time limit, and survives if all of them pass.

It takes half an hour or more, and is no part of the tests that run on every change. Needs coverage and pytest-cov.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

FOLDERS = ("lightning_sparse/topology", "lightning_sparse/network")
TESTS = (
    "tests/topology",
    "tests/network",
    "tests/papers",
    "tests/contracts/test_rules.py",
    "tests/contracts/test_recipes.py",
)
# Tests of a mutant: at most this many, of at most this many seconds; a mutant may take this many times as long.
MOST_TESTS, MOST_SECONDS, PATIENCE = 80, 15.0, 4

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}


@dataclass(frozen=True)
class Mutant:
    """A planted fault.

    Attributes:
        path: File, from the root of the checkout.
        line: Line of the changed code.
        node: Number of the changed node in `ast.walk` order.
        operator: Kind of the change.
        change: The code before and after it.
    """

    path: str
    line: int
    node: int
    operator: str
    change: str

    @property
    def key(self) -> str:
        """Text that stands for the mutant in the results."""
        return f"{self.path}:{self.line} | {self.operator} | {self.change}"


def mutated(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield what a node may be replaced by, with the operator's name."""
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            changed = copy.deepcopy(node)
            changed.ops[index] = COMPARISONS[type(operator)]()
            yield "comparison", changed
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in ARITHMETIC:
        changed_op = copy.deepcopy(node)
        changed_op.op = ARITHMETIC[type(node.op)]()
        yield "arithmetic", changed_op
    elif isinstance(node, ast.BoolOp):
        changed_bool = copy.deepcopy(node)
        changed_bool.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "boolean", changed_bool
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
        yield "operator removed", node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield "constant", ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, (ast.If, ast.IfExp)):
        changed_if = copy.deepcopy(node)
        changed_if.test = ast.UnaryOp(ast.Not(), node.test)
        yield "condition negated", changed_if
    elif isinstance(node, ast.Return) and not (node.value is None or isinstance(node.value, ast.Constant)):
        yield "return None", ast.Return(ast.Constant(None))
    elif isinstance(node, (ast.Expr, ast.Raise, ast.AugAssign)):
        yield "statement removed", ast.Pass()


def code_nodes(tree: ast.AST) -> Iterator[tuple[int, ast.AST]]:
    """Yield the nodes that may be changed, with their number: no docstrings, annotations, messages or decorators."""
    left_out: set[int] = set()
    for number, node in enumerate(ast.walk(tree)):
        skipped: list[Any] = []
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            skipped += node.decorator_list
        if isinstance(node, ast.FunctionDef):
            skipped.append(node.returns)
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            skipped.append(node.annotation)
        if isinstance(node, ast.Raise):
            skipped += [node.exc, node.cause]
        if isinstance(node, ast.JoinedStr):
            skipped += node.values
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node))
        for child in skipped:
            left_out |= {id(inner) for inner in ast.walk(child)} if child is not None else set()
        if id(node) not in left_out and hasattr(node, "lineno"):
            yield number, node


def brief(node: ast.AST) -> str:
    """Return the first line of a node's code."""
    return ast.unparse(ast.fix_missing_locations(node)).splitlines()[0][:70]


def all_mutants(tree: Path) -> list[Mutant]:
    """Return every mutant of the folders, in the order of files and nodes."""
    mutants = []
    for path in sorted(path for folder in FOLDERS for path in (tree / folder).rglob("*.py")):
        for number, node in code_nodes(ast.parse(path.read_text(encoding="utf-8"))):
            for operator, replacement in mutated(node):
                change = f"{brief(node)}  ->  {brief(replacement)}"
                line: int = node.lineno  # type: ignore[attr-defined]  # code_nodes() asked for it
                mutants.append(Mutant(path.relative_to(tree).as_posix(), line, number, operator, change))
    return mutants


def source_of(tree: Path, mutant: Mutant) -> str:
    """Return the source of a mutant's file."""
    module = ast.parse((tree / mutant.path).read_text(encoding="utf-8"))
    target = list(ast.walk(module))[mutant.node]
    replacement = next(
        new for operator, new in mutated(target) if f"{brief(target)}  ->  {brief(new)}" == mutant.change
    )

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            return replacement if node is target else self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Replace().visit(module)))


class Durations:
    """Plugin that records how long each test takes that passes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add up set-up, call and tear-down."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if not report.passed:
            self.failed.add(report.nodeid)


def measure(folder: Path) -> None:
    """Run all tests once, in the current directory, and write which lines each of them runs and how long it takes."""
    import pytest

    durations = Durations()
    options = [f"--cov={name}" for name in FOLDERS]
    options += ["--cov-context=test", "--cov-report=", "-q", "-p", "no:cacheprovider"]
    pytest.main([*TESTS, *options], plugins=[durations])
    passed = {test: seconds for test, seconds in durations.seconds.items() if test not in durations.failed}
    (folder / "durations.json").write_text(json.dumps(passed), encoding="utf-8")


def tests_of_lines(tree: Path, folder: Path) -> dict[str, dict[int, list[str]]]:
    """Return the tests that run each line, the fastest first, measured once."""
    data_file = folder / "coverage"
    if not (folder / "durations.json").exists():
        subprocess.run(
            [sys.executable, Path(__file__).resolve(), "--measure", folder],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "COVERAGE_FILE": str(data_file), "COVERAGE_CORE": "ctrace"},
            check=True,
        )
    from coverage import CoverageData

    seconds: dict[str, float] = json.loads((folder / "durations.json").read_text(encoding="utf-8"))
    data = CoverageData(str(data_file))
    data.read()
    lines: dict[str, dict[int, list[str]]] = {}
    for file in data.measured_files():
        lines[Path(file).relative_to(tree).as_posix()] = {
            line: fastest({name.partition("|")[0] for name in contexts}, seconds)
            for line, contexts in data.contexts_by_lineno(file).items()
        }
    return lines


def digest(tree: Path) -> str:
    """Return a digest of sources and tests, by which measurements of another version are not taken for this one's."""
    content = hashlib.blake2b(str(tree).encode(), digest_size=8)
    for path in sorted(path for folder in (*FOLDERS, "tests") for path in (tree / folder).rglob("*.py")):
        content.update(path.read_bytes())
    return content.hexdigest()


def fastest(tests: set[str], seconds: dict[str, float]) -> list[str]:
    """Return the fastest tests, as many as a mutant may take."""
    chosen: list[str] = []
    spent = 0.0
    for test in sorted(tests & set(seconds), key=lambda test: (seconds[test], test)):
        spent += seconds[test]
        if len(chosen) == MOST_TESTS or (chosen and spent > MOST_SECONDS):
            break
        chosen.append(test)
    return chosen


def outcome(tree: Path, path: str, source: str, tests: list[str]) -> str:
    """Return whether tests killed a mutant, in a forked process."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os._exit(_run_tests(tree, path, source, tests))
        os._exit(3)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(int(MOST_SECONDS * PATIENCE))
    _, status = os.waitpid(child, 0)
    signal.alarm(0)
    if os.WIFSIGNALED(status):
        return "timeout"
    return "survived" if os.WEXITSTATUS(status) == 0 else "killed"


def check_unchanged_code(tree: Path, lines: dict[str, dict[int, list[str]]]) -> None:
    """Raise unless the tests pass without a fault: else everything would look killed."""
    for path, tests in lines.items():
        chosen = tests[max(tests)] if tests else []
        if chosen and outcome(tree, path, (tree / path).read_text(encoding="utf-8"), chosen) != "survived":
            raise RuntimeError(f"Expected tests that pass on the unchanged {path}; got a failure. Cure: run {chosen}.")


def _run_tests(tree: Path, path: str, source: str, tests: list[str]) -> int:
    import pytest

    file, get_code = str(tree / path), SourceFileLoader.get_code

    def planted(loader: SourceFileLoader, name: str) -> Any:
        return compile(source, file, "exec") if loader.path == file else get_code(loader, name)

    SourceFileLoader.get_code = planted  # type: ignore[method-assign]  # in this process only
    os.chdir(tree)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*tests, *options]))


def main() -> None:
    """Draw the mutants and try those that are not among the results yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, help="a checkout that nobody edits meanwhile")
    parser.add_argument("--results", type=Path, help="text file to append to")
    parser.add_argument("--number", type=int, default=300, help="size of the sample (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: %(default)s)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    tree = arguments.tree.resolve()
    folder = Path(tempfile.gettempdir()) / f"mutation-{digest(tree)}"
    folder.mkdir(exist_ok=True)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
    lines = tests_of_lines(tree, folder)
    sys.path.insert(0, str(tree))
    import hypothesis  # noqa: F401  # imported here, so that the forked processes need not
    import lightning.pytorch  # noqa: F401
    import pytest  # noqa: F401
    import torch  # noqa: F401

    mutants = all_mutants(tree)
    chosen = random.Random(arguments.seed).sample(mutants, min(arguments.number, len(mutants)))
    check_unchanged_code(tree, lines)
    done = arguments.results.read_text(encoding="utf-8") if arguments.results.exists() else ""
    for mutant in chosen:
        if f"{mutant.key} | " in done:
            continue
        tests = lines.get(mutant.path, {}).get(mutant.line, [])
        result = outcome(tree, mutant.path, source_of(tree, mutant), tests) if tests else "not covered"
        with arguments.results.open("a", encoding="utf-8") as file:
            file.write(f"{mutant.key} | {result}\n")


if __name__ == "__main__":
    main()
