"""The demo: a table, two pictures and a CSV file from a dense and a sparse run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lightning_sparse.cli import main

PNG = b"\x89PNG\r\n\x1a\n"


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
