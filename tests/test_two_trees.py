"""The comparison of two checkouts: what it measures, in which order, and what it concludes."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

# What a checkout's fake package costs: a few per cent more or less from process to process, always the same ones.
PACKAGE = """\
import math, pathlib
path = pathlib.Path("processes.txt")
count = int(path.read_text()) if path.exists() else 0
path.write_text(str(count + 1))
order = pathlib.Path("..", "order.txt")
with order.open("a") as file:
    file.write(pathlib.Path.cwd().name)
print("seconds 9.0\\nseconds", {cost} * (1 + 0.03 * math.sin({phase} + 2.4 * count)))
"""
METRIC = "seconds ([0-9.]+)"
FAKE = [sys.executable, "-S", "-c", "import lightning_sparse"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="resources of a process are read from Unix")


@pytest.fixture(scope="module")
def two_trees() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "two_trees.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def trees(folder: Path, costs: Sequence[float] = (1.0, 1.0)) -> list[str]:
    """Write two fake checkouts, a and b, and return their folders."""
    for phase, (name, cost) in enumerate(zip("ab", costs, strict=True)):
        package = folder / name / "lightning_sparse"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(PACKAGE.format(cost=cost, phase=phase))
    return [str(folder / name) for name in "ab"]


def test_equal_checkouts_give_an_interval_around_one(
    two_trees: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert two_trees.main([*trees(tmp_path), "--metric", METRIC, *FAKE]) == 0
    last = capsys.readouterr().out.splitlines()
    low, high = (float(last[-2].split()[place]) for place in (-3, -1))
    assert 0.95 < low <= 1 <= high < 1.05
    assert last[-1] == "below 1.05"
    assert last[-4].startswith("A: median printed ")
    # One of each that isn't counted, then pairs, every other one beginning with b.
    assert (tmp_path / "order.txt").read_text() == "ab" + "abba" * 7 + "ab"


@pytest.mark.parametrize(
    ("cost", "limit", "status", "verdict"),
    [(1.1, "1.05", 1, "NOT below 1.05"), (1.1, "1.2", 0, "below 1.2"), (0.5, "1.05", 0, "below 1.05")],
)
def test_a_slower_checkout_is_found(
    two_trees: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cost: float,
    limit: str,
    status: int,
    verdict: str,
) -> None:
    assert two_trees.main(["--limit", limit, *trees(tmp_path, (1.0, cost)), "--metric", METRIC, *FAKE]) == status
    last = capsys.readouterr().out.splitlines()
    low, high = (float(last[-2].split()[place]) for place in (-3, -1))
    assert cost * 0.95 < low < high < cost * 1.05
    assert last[-1] == verdict


def test_an_interval_that_reaches_the_limit_is_not_below_it(
    two_trees: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = [1.0] * 9 + [1.2] * 6
    pairs = [(two_trees.Cost(1.0, 1.0), two_trees.Cost(ratio, 1.0)) for ratio in ratios]
    assert not two_trees.report(pairs, limit=1.05)
    assert "median 1.0000, 95 % interval 1.0000 to 1.2000" in capsys.readouterr().out


def test_ratios_are_taken_within_pairs(two_trees: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    # A machine that becomes four times slower halfway makes no ratio of 4.
    pairs = [(two_trees.Cost(pace, 1.0), two_trees.Cost(1.02 * pace, 1.0)) for pace in [1.0] * 7 + [4.0] * 8]
    assert two_trees.report(pairs, limit=1.05)
    assert "median 1.0200, 95 % interval 1.0200 to 1.0200" in capsys.readouterr().out


def test_the_interval_holds_the_median_as_often_as_it_says(two_trees: ModuleType) -> None:
    source = random.Random(1)
    held = 0
    for _ in range(200):
        low, high = two_trees.interval([source.gauss(1, 0.05) for _ in range(15)], resamples=300)
        held += low <= 1 <= high
    assert 0.90 <= held / 200 <= 0.99


def test_the_interval_is_the_same_each_time(two_trees: ModuleType) -> None:
    ratios = [1 + 0.01 * (number % 7) for number in range(15)]
    assert two_trees.interval(ratios) == two_trees.interval(ratios)
    assert two_trees.interval(ratios) != two_trees.interval([ratio + 0.001 for ratio in ratios])


def test_cpu_time_is_that_of_all_processes_that_a_command_waits_for(two_trees: ModuleType, tmp_path: Path) -> None:
    (tree, _) = trees(tmp_path)
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    child = f"import subprocess, sys, time; time.sleep(0.3); subprocess.run([sys.executable, '-S', '-c', {burn!r}])"
    cost = two_trees.measure(Path(tree), [sys.executable, "-S", "-c", child], None)
    assert 0.3 <= cost.cpu < cost.wall - 0.2
    assert cost.compared == cost.cpu


def test_a_script_from_elsewhere_uses_the_package_of_the_checkout(two_trees: ModuleType, tmp_path: Path) -> None:
    (tree, _) = trees(tmp_path)
    script = tmp_path / "elsewhere.py"
    script.write_text(
        "import os, pathlib, lightning_sparse as it\n"
        "inside = pathlib.Path(it.__file__).parents[1].samefile(os.getcwd())\n"
        "print('found', int(inside and os.environ['OMP_NUM_THREADS'] == os.environ['MKL_NUM_THREADS'] == '1'))"
    )
    metric = two_trees.re.compile("found ([01])")
    assert two_trees.measure(Path(tree), [sys.executable, str(script)], metric).printed == 1


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([sys.executable, "-S", "-c", "print('what it was about'); raise SystemExit(3)"], ["got 3", "was about"]),
        ([sys.executable, "-S", "-c", "print('seconds', 'many')"], ["no match", "many"]),
        ([sys.executable, "-S", "-c", "print('seconds 0.0')"], ["got '0.0'", "number > 0"]),
        ([sys.executable, "-S", "-c", "print('seconds ...')"], ["got '...'"]),
        (["no-such-program"], ["no-such-program", "Cure"]),
    ],
)
def test_a_command_that_fails_is_an_error_with_its_output(
    two_trees: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], words: list[str]
) -> None:
    assert two_trees.main([*trees(tmp_path), "--metric", METRIC, *command]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--pairs", "14"], "at least 15 pairs; got 14"),
        (["--metric", "seconds [0-9.]+"], "one group"),
        (["--metric", "seconds ("], "regular expression"),
    ],
)
def test_options_that_say_nothing_are_refused(
    two_trees: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], word: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        two_trees.main([*trees(tmp_path), *options, *FAKE])
    assert stop.value.code == 2
    assert word in capsys.readouterr().err


def test_a_folder_without_the_package_is_refused(
    two_trees: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        two_trees.main([trees(tmp_path)[0], str(tmp_path), *FAKE])
    assert f"got {tmp_path}" in capsys.readouterr().err


def test_options_of_the_command_are_its_own(two_trees: ModuleType, tmp_path: Path) -> None:
    options = two_trees._parsed([*trees(tmp_path), "--pairs", "16", "program", "--pairs", "3", "--metric", "("])
    assert (options.pairs, options.metric) == (16, None)
    assert options.command == ["program", "--pairs", "3", "--metric", "("]
