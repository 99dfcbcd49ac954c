"""The library is built, chosen and refused as it should be, and leaves the process as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sparse_rows import filled, needs_kernels, random, sparse_rows
from torch.multiprocessing import get_context

from lightning_sparse.execution.kernels import best_variant, kernels, library, sizes_of, why_unavailable
from lightning_sparse.execution.kernels.build import BuildError, build, digest, find_compiler, variants

has_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], str | None]:
    """Why there are no kernels, if the library's folder were an empty one; that is the current folder."""
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    monkeypatch.setattr(library, "_load", library._load.__wrapped__)
    monkeypatch.setattr(library, "_kernels", library._kernels.__wrapped__)
    monkeypatch.chdir(tmp_path)
    return why_unavailable


@has_compiler
def test_what_was_installed_with_a_compiler_has_kernels() -> None:
    assert why_unavailable() is None
    assert kernels().variant == best_variant()


@has_compiler
def test_a_library_is_built_from_the_sources(unloaded: Callable[[], str | None], tmp_path: Path) -> None:
    assert unloaded() == "the package was installed without a C compiler"
    assert build(tmp_path).parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["kernels.so"]
    assert unloaded() is None
    assert kernels("reference").variant == "reference"


def test_a_package_without_kernels_says_why(unloaded: Callable[[], str | None], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="got none: the package was installed without a C compiler"):
        kernels()
    (tmp_path / "kernels.so").write_text("no library")
    assert "can't be loaded" in str(unloaded())


@has_compiler
def test_a_library_of_other_sources_is_refused(
    unloaded: Callable[[], str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path)
    monkeypatch.setattr(library, "digest", lambda: digest()[::-1])
    assert "compiled from other sources" in str(unloaded())


@pytest.mark.parametrize("command", ["false", "no-such-compiler"])
def test_a_compiler_that_fails_is_an_error_and_leaves_nothing(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", command)
    monkeypatch.setenv("PATH", "/usr/bin:/bin" if command == "false" else str(tmp_path))
    with pytest.raises(BuildError, match=r"false .*failed|no C compiler"):
        build(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_instruction_sets_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [*variants("x86_64")] == ["baseline", "avx2", "avx512"]
    assert [*variants("aarch64")] == ["baseline"]
    for capability, expected in (
        ("AVX512", "avx512"),
        ("AVX2", "avx2"),
        ("DEFAULT", "baseline"),
        ("SVE256", "baseline"),
    ):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        monkeypatch.setattr(library, "variants", lambda: variants("x86_64"))
        assert best_variant() == expected
        monkeypatch.setattr(library, "variants", lambda: variants("riscv64"))
        assert best_variant() == "baseline"


@needs_kernels
def test_denormal_numbers_stay_what_they_are() -> None:
    smallest = torch.tensor([1e-40])
    product()
    assert float(smallest * 1.0) == float(smallest) != 0
    assert float(smallest / 2) != 0


def product(threads: int = 1) -> torch.Tensor:
    rows = sparse_rows([3] * 40, 8)
    outputs = filled(40, 64)
    each = (rows.pointers, rows.columns, rows.values, random(8, 64), None, outputs)
    kernels()("sparse_product", *each, sizes=sizes_of(40, 64, threads, 0))
    return outputs


def _of_child(queue: object) -> None:
    queue.put(product(threads=4).tolist())  # type: ignore[attr-defined]  # of either kind


@needs_kernels
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    expected = product(threads=4)
    context = get_context("fork")
    queue = context.SimpleQueue()
    for _ in range(3):
        child = context.Process(target=_of_child, args=(queue,))
        child.start()
        assert queue.get() == expected.tolist()
        child.join(20)
        assert child.exitcode == 0
    assert torch.equal(product(threads=4), expected)


@needs_kernels
def test_loops_of_several_threads_at_once_are_right() -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected = product()
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(product, [1, 2, 3, 4] * 50)]
    assert all(torch.equal(each, expected) for each in found)
