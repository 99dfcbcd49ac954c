"""The demo: a table, two pictures and a CSV file from a dense and a sparse run."""

from __future__ import annotations

import csv
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_sparse.cli import main
from lightning_sparse.cli.demo import demo
from lightning_sparse.models import ImageClassifier

PNG = b"\x89PNG\r\n\x1a\n"
LOGGERS = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")


def test_the_demo_writes_what_it_says_and_the_numbers_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    out = tmp_path / "pictures"
    main(["demo", "--out", str(out), "--epochs", "4", "--density", "0.1"])
    text = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["accuracy.png", "demo.csv", "density_per_layer.png"]
    assert all((out / name).read_bytes().startswith(PNG) for name in ("accuracy.png", "density_per_layer.png"))
    rows = list(csv.DictReader((out / "demo.csv").read_text().splitlines()))
    assert [(row["network"], row["epoch"]) for row in rows] == [
        (network, str(epoch)) for network in ("dense", "10 % weights") for epoch in range(1, 5)
    ]
    active = [sum(int(row[key]) for key in row if key.startswith("active/")) for row in rows]
    assert active == [50_200] * 4 + [5_020] * 4
    assert "50,200" in text
    assert "5,020" in text
    # The first epoch has the uniform density, the second the topology after the first update.
    fc3 = [int(row["active/model.fc3.weight"]) for row in rows[4:]]
    assert fc3[0] == 100
    assert fc3[1] != 100
    for name in ("accuracy.png", "density_per_layer.png", "demo.csv"):
        assert name in text.replace("\n", "")


FRAMES = re.compile(r"[┏┓┡┩└┘━─┳╇┴╈]")
# Numbers and paths stand as N and PATH, frames are left out.
EXPECTED = """\
training: dense
training: N % weights
LeNet-N-N on NxN digits
┃ network ┃ test error ┃ active weights ┃
│ dense │ N % │ N │
│ N % weights │ N % │ N │
Where the active weights went (N % weights)
┃ layer ┃ weights ┃ active first ┃ active last ┃ density last ┃
│ model.fcN.weight │ N │ N │ N │ N % │
│ model.fcN.weight │ N │ N │ N │ N % │
│ model.fcN.weight │ N │ N │ N │ N % │
wrote PATH/density_per_layer.png
wrote PATH/accuracy.png
wrote PATH/demo.csv
"""


def shape(text: str, out: Path) -> str:
    """Return printed text with numbers and the folder replaced, without frames and padding."""
    lines = [" ".join(line.split()) for line in text.replace(str(out), "PATH").splitlines() if not FRAMES.search(line)]
    return re.sub(r"\d+([.,]\d+)*", "N", "\n".join(lines)) + "\n"


@pytest.mark.parametrize("hidden", ["", "lightning", "pytorch_lightning"], ids=["both", "one", "the other"])
def test_the_demo_prints_its_own_lines_only(hidden: str, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("pytorch_lightning")
    code = f"""
import sys
if {hidden!r}:
    sys.modules[{hidden!r}] = None  # as if it were not installed
from lightning_sparse.cli import main
main(["demo", "--out", {str(tmp_path)!r}, "--epochs", "2"])
"""
    environment = {**os.environ, "COLUMNS": "300", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=environment, timeout=120, check=False
    )
    assert done.stderr == ""
    assert shape(done.stdout, tmp_path) == EXPECTED


@pytest.fixture
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_three_threads")
def test_the_demo_computes_with_one_thread_and_restores_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    step = ImageClassifier.training_step

    def recording(self: ImageClassifier, *arguments: Any) -> Any:
        threads.append(torch.get_num_threads())
        return step(self, *arguments)

    monkeypatch.setattr(ImageClassifier, "training_step", recording)
    demo(tmp_path, epochs=2)
    assert set(threads) == {1}
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("_three_threads")
def test_the_demo_restores_threads_log_levels_and_warnings_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise ArithmeticError("meant to fail")

    monkeypatch.setattr(ImageClassifier, "training_step", fail)
    levels, filters = [logging.getLogger(name).level for name in LOGGERS], list(warnings.filters)
    with pytest.raises(ArithmeticError, match="meant to fail"):
        demo(tmp_path, epochs=2)
    assert torch.get_num_threads() == 3
    assert [logging.getLogger(name).level for name in LOGGERS] == levels
    assert list(warnings.filters) == filters
