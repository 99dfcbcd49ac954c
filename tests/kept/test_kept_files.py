"""A checkpoint and a configuration that version 0 wrote serve every later version; what is kept is never changed."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from version_0 import CHECKPOINT, CONFIG, EXPECTED, NETWORK, ending, run, run_of_config

from lightning_sparse import SparseMomentumCallback
from lightning_sparse.callbacks.probing.logging import under_old_names
from lightning_sparse.models import ImageClassifier, create_model

WRITTEN = {
    CHECKPOINT: "127b808b5f02868c69745af78ec423b54453b77a6690ad5d2b25b0d7216236da",
    CONFIG: "f4922f7aef7e1ecd830332d77499e5c65be3dde247e2bb7d1c65a033d507d3b0",
    EXPECTED: "988476d1dd3c250c94169f64558781d8fb348eb21c5f3998a5076fded79cee00",
}
# Of other processors and versions of PyTorch: with weights and momentum disturbed by a part in 100,000, what is counted
# stays the same, and no number moves by more than this.
CLOSE: dict[str, Any] = {"rel": 1e-4, "abs": 1e-6}

pytestmark = [
    # Old names go on working, and say by what they were replaced.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    # Of versions that differ from those that wrote the checkpoint, and of where the run is resumed.
    pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
]


def leaves(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the numbers and words in dictionaries and lists, each with the way to it."""
    if not isinstance(values, dict | list):
        yield name, values
        return
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield from leaves(value, f"{name}/{key}")


def different(found: Any, expected: Any) -> list[str]:
    """Return where two runs differ; floating-point numbers may by a little."""
    ours, theirs = dict(leaves(found)), dict(leaves(expected))
    missing = sorted(ours.keys() ^ theirs.keys())
    return missing + [name for name in ours if name in theirs and not alike(ours[name], theirs[name])]


def alike(ours: object, theirs: object) -> bool:
    """Tell whether two values are the same, as far as they can be on another processor."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return bool(ours == pytest.approx(theirs, **CLOSE))
    return ours == theirs


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads(EXPECTED.read_text())


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_what_version_0_wrote_was_not_changed_since(path: Path) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == WRITTEN[path]


def test_a_checkpoint_of_version_0_resumes_to_the_same_end(tmp_path: Path, expected: dict[str, Any]) -> None:
    trainer = run(folder=tmp_path, seed=99, ckpt_path=str(CHECKPOINT), weights_only=True)
    found = ending(trainer)
    assert different(found, expected["checkpoint"]) == []
    (sparse,) = (each for each in trainer.callbacks if isinstance(each, SparseMomentumCallback))
    assert sparse.network is not None
    for name, mask in sparse.network.masks.items():
        assert not trainer.lightning_module.get_parameter(name)[~mask].any()


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("steps", lambda steps: steps + 1),
        ("updates", lambda updates: updates[1:]),
        ("updates/1/2", lambda pruned: pruned - 1),
        ("active/model.hidden.0.linear.weight", lambda active: active + 1),
        ("masks/model.hidden.1.linear.weight", lambda digits: "d" + digits[1:-1] + "e"),
        ("weights/model.hidden.1.linear.weight/3", lambda weight: weight + 1e-4),
        ("random numbers/0/3", lambda number: number + 1),
        ("gradient flow/measurements", lambda measurements: measurements - 4),
        ("specialization/1/model.output", lambda mean: mean * 1.001),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_planted_difference_is_found(path: str, change: Any, expected: dict[str, Any]) -> None:
    planted = copy.deepcopy(expected["checkpoint"])
    *way, last = path.split("/")
    place = planted
    for key in way:
        place = place[int(key) if isinstance(place, list) else key]
    last = int(last) if isinstance(place, list) else last
    place[last] = change(place[last])
    assert different(planted, expected["checkpoint"])
    assert different(expected["checkpoint"], planted)


@pytest.mark.parametrize("damaged", ["counter", "mask"])
def test_a_checkpoint_that_was_changed_does_not_end_so(tmp_path: Path, expected: dict[str, Any], damaged: str) -> None:
    checkpoint = torch.load(CHECKPOINT, weights_only=True)
    if damaged == "counter":
        checkpoint["callbacks"]["SparseMomentumCallback"]["last"][1] -= 1
    else:
        checkpoint["callbacks"]["SparseMomentumCallback"]["network"]["masks"]["model.hidden.1.linear.weight"] ^= 1
    path = tmp_path / "changed.ckpt"
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="checksum"):
        run(folder=tmp_path, ckpt_path=str(path), weights_only=True)


def test_a_checkpoint_whose_momentum_was_changed_does_not_end_so(tmp_path: Path, expected: dict[str, Any]) -> None:
    checkpoint = torch.load(CHECKPOINT, weights_only=True)
    for state in checkpoint["optimizer_states"][0]["state"].values():
        state["momentum_buffer"].zero_()
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    found = ending(run(folder=tmp_path, ckpt_path=str(tmp_path / "changed.ckpt"), weights_only=True))
    assert any(name.startswith("/weights") for name in different(found, expected["checkpoint"]))


def test_a_checkpoint_of_version_0_loads_into_the_plain_network() -> None:
    checkpoint = torch.load(CHECKPOINT, weights_only=True)
    weights = {name.removeprefix("model."): values for name, values in checkpoint["state_dict"].items()}
    plain = create_model("mlp", **NETWORK)
    plain.load_state_dict(weights, strict=True)
    module = ImageClassifier.load_from_checkpoint(CHECKPOINT, strict=True, weights_only=True)
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(module.eval()(images), plain.eval()(images))


def test_a_configuration_of_version_0_trains_to_its_end(tmp_path: Path, expected: dict[str, Any]) -> None:
    found = run_of_config(tmp_path, CONFIG)
    # Layers are logged under new names, and under these on request. Later versions may log and write more.
    found["logged"] = [*found["logged"], *under_old_names(dict.fromkeys(found["logged"], 0.0))]
    # Gradient flow beside masks is that of masked layers, and the configuration leaves the output dense.
    without = {"logged": {"gradient_flow/kept/egf_l2/model.output.weight"}, "files": set()}
    for name, gone in without.items():
        assert set(expected["config"][name]) - set(found.pop(name)) == gone
    assert different(found, {name: expected["config"][name] for name in found}) == []
    assert found["updates"] > 0
