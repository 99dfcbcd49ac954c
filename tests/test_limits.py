"""Files, folders, functions and constructors stay small enough to be read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_sparse

ROOT = Path(lightning_sparse.__file__).parent

AT_THE_ROOT = {"__init__.py", "__main__.py", "_compat.py", "_version.py", "py.typed"}
MOST_MODULES = 20  # in a folder
MOST_LINES = 299  # of a file
MOST_BODY_LINES = 40  # of a function, without its docstring
MOST_ARGUMENTS = 7  # of a constructor
# Public classes whose options are flat, as YAML and the command line name them; what takes the options of one of these
# forwards them (`**options`).
FLAT_OPTIONS = {
    "SparseTrainingCallback",
    "SparseTraining",
    "GradientFlowCallback",
    "ClassSpecializationCallback",
    "SparseNetwork",
    "ImageClassifier",
    "InMemoryDataModule",
    "ImageFolderDataModule",
}
# What the data modules make of these options, all of which a batch depends on.
LOADERS = {"InMemoryLoader", "ResumableLoader"}


def misplaced(root: Path) -> list[str]:
    """Return what stands at the root of a package and is neither a room nor one of its few files."""
    return sorted(path.name for path in root.iterdir() if path.is_file() and path.name not in AT_THE_ROOT)


def crowded(root: Path) -> list[str]:
    """Return the folders below a package's root with too many modules."""
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    return sorted(str(path.relative_to(root)) for path in folders if len([*path.glob("*.py")]) > MOST_MODULES)


def long_files(root: Path) -> list[str]:
    """Return the modules with too many lines."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in root.rglob("*.py")}
    return sorted(f"{path.relative_to(root)}: {length}" for path, length in lengths.items() if length > MOST_LINES)


def long_functions(source: str) -> list[str]:
    """Return the functions of a module whose body is too long, whatever they are nested in."""
    return [f"{function.name}: {length}" for function, length in _bodies(source) if length > MOST_BODY_LINES]


def _bodies(source: str) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            yield node, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def long_constructors(source: str) -> list[str]:
    """Return the classes of a module whose constructor names too many arguments, but for the exceptions above."""
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    counts = {node.name: _constructor_arguments(node) for node in classes}
    exceptions = FLAT_OPTIONS | LOADERS
    return [f"{name}: {count}" for name, count in counts.items() if count > MOST_ARGUMENTS and name not in exceptions]


def _constructor_arguments(node: ast.ClassDef) -> int:
    constructors = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
    counts = [len([*made.args.posonlyargs, *made.args.args, *made.args.kwonlyargs]) - 1 for made in constructors]
    return max(counts, default=0)


def conditional_asserts(source: str) -> list[int]:
    """Return the lines of assert statements under an `if`, which a test passes without reaching them."""
    conditions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.If)]
    return sorted({node.lineno for under in conditions for node in ast.walk(under) if isinstance(node, ast.Assert)})


def modules(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def test_at_the_root_there_are_rooms_and_a_few_files() -> None:
    assert misplaced(ROOT) == []


def test_no_folder_has_too_many_modules() -> None:
    assert crowded(ROOT) == []


def test_no_file_is_too_long() -> None:
    assert long_files(ROOT) == []


def test_no_test_asserts_under_an_if() -> None:
    tests = Path(__file__).parent
    found = {path: conditional_asserts(path.read_text(encoding="utf-8")) for path in modules(tests)}
    assert {str(path.relative_to(tests)): lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize("path", modules(ROOT), ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_and_constructors_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert (long_functions(source), long_constructors(source)) == ([], [])


def test_every_exception_is_one() -> None:
    classes = [
        node
        for path in modules(ROOT)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    long = {node.name for node in classes if _constructor_arguments(node) > MOST_ARGUMENTS}
    assert long == FLAT_OPTIONS | LOADERS


def test_a_planted_module_at_the_root_and_a_crowded_folder_are_found(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (tmp_path / "_version.py").touch()
    for index in range(MOST_MODULES):
        (room / f"module_{index}.py").touch()
    assert (misplaced(tmp_path), crowded(tmp_path)) == ([], [])
    (room / "one_more.py").touch()
    (tmp_path / "helpers.py").touch()
    assert (misplaced(tmp_path), crowded(tmp_path)) == (["helpers.py"], ["room"])


def test_a_planted_long_function_is_found() -> None:
    body = "    x = 1\n" * MOST_BODY_LINES
    described = f'def planted():\n    """Do much.\n\n    Slowly.\n    """\n{body}'
    assert long_functions(described) == []
    assert long_functions(f"{described}    x = 2\n") == [f"planted: {MOST_BODY_LINES + 1}"]
    nested = "".join(f"    {line}\n" for line in f"{described}    x = 2".splitlines())
    assert long_functions(f"class Room:\n{nested}") == [f"planted: {MOST_BODY_LINES + 1}"]


def test_a_planted_long_constructor_is_found() -> None:
    def planted(name: str, count: int) -> str:
        arguments = ", ".join(f"option_{index}" for index in range(count))
        return f"class {name}:\n    def __init__(self, {arguments}, **options):\n        pass\n"

    assert long_constructors(planted("Planted", MOST_ARGUMENTS)) == []
    assert long_constructors(planted("Planted", MOST_ARGUMENTS + 1)) == [f"Planted: {MOST_ARGUMENTS + 1}"]
    assert long_constructors(planted("SparseNetwork", MOST_ARGUMENTS + 1)) == []


def test_a_planted_long_file_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("x = 1\n" * MOST_LINES, encoding="utf-8")
    assert long_files(tmp_path) == []
    module.write_text("x = 1\n" * (MOST_LINES + 1), encoding="utf-8")
    assert long_files(tmp_path) == [f"module.py: {MOST_LINES + 1}"]


@pytest.mark.parametrize(
    ("statements", "lines"),
    [
        ("if x:\n    assert y", [2]),
        ("if x:\n    pass\nelse:\n    for z in y:\n        assert z", [5]),
        ("if x:\n    pass\nelif y:\n    assert z", [4]),
        ("for x in y:\n    assert x", []),
        ("assert x if y else z", []),
        ("if x:\n    y = z\nassert y", []),
    ],
)
def test_a_planted_assert_under_an_if_is_found(statements: str, lines: list[int]) -> None:
    assert conditional_asserts(statements) == lines
