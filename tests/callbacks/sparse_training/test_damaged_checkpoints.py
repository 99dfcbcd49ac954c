"""A damaged checkpoint never loads silently and never runs code, and what it left behind can be used again.

What is checked when a run resumes from a file, or evaluates it, with a sparse callback:

- The file as a whole: each entry of PyTorch's zip archives has a CRC-32, which PyTorch itself doesn't look at. So a
  flipped bit in a weight, in an optimizer's momentum or in a counter of Lightning's is found like one in a mask. What
  is left are bytes that nobody reads, such as padding and dates. Not looked at are directories (sharded checkpoints),
  addresses, files of other formats and files that were saved without checksums.
- The callback's state: its own checksum holds wherever it is kept, and then its content: types, shapes, dtypes,
  counts, the order of counters.

Neither binds weights to masks: weights that were edited on purpose, or converted, and saved again are resumed. Neither
is a signature: who writes a file can write a right checksum. What he can't do is run code: see the last tests.

Lightning loads the weights before any callback is asked. So a file that PyTorch can read, and is then refused, leaves
its weights in the module; the callback is as before.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_training import (
    ShufflingLoader,
    TinyModule,
    differences,
    everything,
    fit,
    one_checkpoint,
    saving_at,
    stray_weights,
    trainer,
    watchers_of,
)
from torch import Tensor

from lightning_sparse import SparseMomentumCallback
from lightning_sparse.network.known_masks.checkpoint_file import verify_checkpoint_file
from lightning_sparse.network.state import with_checksum
from lightning_sparse.testing.equality import deep_copy

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
KEY = "SparseMomentumCallback"


def sparse() -> SparseMomentumCallback:
    """Return a callback whose state has averages and gradients too."""
    return SparseMomentumCallback(density=0.3, growth="gradient", schedule="linear")


def module() -> TinyModule:
    return TinyModule("sgd")


@dataclass(frozen=True)
class File:
    """A whole checkpoint, after an update, and the end of the run that resumes from it."""

    path: Path
    data: bytes
    expected: dict[str, Any]

    def content(self) -> dict[str, Any]:
        """Return its content, loaded again at each call."""
        loaded: dict[str, Any] = torch.load(self.path, weights_only=True)
        return loaded

    def damaged(self, data: bytes) -> str:
        """Write a file beside it."""
        path = self.path.with_name("damaged.ckpt")
        path.write_bytes(data)
        return str(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> File:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("whole") / "whole.ckpt"
    fit(sparse(), saving_at(5, path), module=module())
    return File(path, path.read_bytes(), resumed(str(path), sparse()))


def resumed(path: str, callback: SparseMomentumCallback, model: TinyModule | None = None) -> dict[str, Any]:
    return everything(fit(callback, module=model or module(), ckpt_path=path), callback)


def saved_as(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


UNTIL_THE_NEXT_FIT = ("_is_fitting", "_is_resumed", "_restored", "_unused_counters", "_was_given")


def refuses(whole: File, data: bytes, message: str, error: type[Exception] = ValueError) -> None:
    """Resume from a damaged file that PyTorch can read, then from the whole one with the same callback."""
    callback, model = sparse(), module()
    before = dict(vars(callback))
    run = trainer(callback)
    with pytest.raises(error, match=message):
        run.fit(model, ShufflingLoader(), ShufflingLoader(1), ckpt_path=whole.damaged(data))
    assert (watchers_of(run), run.global_step) == (0, 0)
    # What was given, and that the fit failed, lasts until the next one: a checkpoint saved now must not lose it.
    left = {name: value for name, value in before.items() if name not in UNTIL_THE_NEXT_FIT}
    assert {name: vars(callback)[name] for name in left} == left
    weights = torch.load(io.BytesIO(data), weights_only=True)["state_dict"]
    assert differences(dict(model.state_dict()), dict(weights)) == []
    assert differences(resumed(str(whole.path), callback, model), whole.expected) == []


def flip(data: bytes, index: int, bit: int = 0) -> bytes:
    flipped = bytearray(data)
    flipped[index] ^= 1 << bit
    return bytes(flipped)


# --- Bytes


@settings(max_examples=100)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_in_bytes_that_nobody_reads(whole: File, place: float, bit: int) -> None:
    path = whole.damaged(flip(whole.data, int(place * len(whole.data)), bit))
    callback = sparse()
    try:
        found = resumed(path, callback)
    except Exception:  # of PyTorch, Lightning or ours: whatever notices first
        assert (getattr(callback, "network", None), callback.history) == (None, [])
        found = resumed(str(whole.path), callback)
    assert differences(found, whole.expected) == []


PARTS: dict[str, Callable[[dict[str, Any]], Tensor]] = {
    "a weight": lambda content: content["state_dict"]["net.0.weight"],
    "a bias": lambda content: content["state_dict"]["net.3.bias"],
    "a running mean": lambda content: content["state_dict"]["net.1.running_mean"],
    "a mask": lambda content: content["callbacks"][KEY]["network"]["masks"]["net.0.weight"],
    "the random state": lambda content: content["callbacks"][KEY]["network"]["generator"],
    "an average": lambda content: content["callbacks"][KEY]["network"]["averages"]["net.0.weight"],
    "a gradient": lambda content: content["callbacks"][KEY]["network"]["gradients"]["net.3.weight"],
}


@pytest.mark.parametrize("part", PARTS)
def test_a_flipped_bit_in_a_tensor_is_refused_though_pytorch_loads_it(whole: File, part: str) -> None:
    values = PARTS[part](whole.content()).numpy().tobytes()
    assert whole.data.count(values) == 1
    data = flip(whole.data, whole.data.index(values) + len(values) // 2, bit=3)
    loaded = PARTS[part](torch.load(io.BytesIO(data), weights_only=True)).numpy().tobytes()
    assert loaded != values
    refuses(whole, data, r"the checkpoint '.*damaged.ckpt' as it was written; got '.*/data/\d+' in it changed.*Cure: ")


def test_a_flipped_bit_in_the_momentum_of_an_optimizer_is_refused(tmp_path: Path) -> None:
    path = Path(one_checkpoint(tmp_path, SparseMomentumCallback(density=0.3)))
    content = torch.load(path, weights_only=True)
    values = content["optimizer_states"][0]["state"][0]["momentum_buffer"].numpy().tobytes()
    data = path.read_bytes()
    path.write_bytes(flip(data, data.index(values)))
    with pytest.raises(ValueError, match="as it was written; got"):
        fit(SparseMomentumCallback(density=0.3), ckpt_path=str(path))


@pytest.mark.parametrize("evaluate", ["validate", "test"])
def test_a_flipped_bit_is_refused_by_an_evaluation_too(whole: File, evaluate: str) -> None:
    values = whole.content()["state_dict"]["net.0.weight"].numpy().tobytes()
    path = whole.damaged(flip(whole.data, whole.data.index(values)))
    callback = sparse()
    run, model = trainer(callback), module()
    run.fit(model, ShufflingLoader(), ShufflingLoader(1))
    before = deep_copy(callback.state_dict())
    with pytest.raises(ValueError, match="as it was written; got"):
        getattr(run, evaluate)(model, ShufflingLoader(1), ckpt_path=path, verbose=False)
    assert differences(callback.state_dict(), before) == []
    getattr(run, evaluate)(model, ShufflingLoader(1), ckpt_path=str(whole.path), verbose=False)
    assert stray_weights(callback, model) == {}


@settings(max_examples=30)
@given(share=st.floats(0, 1, exclude_max=True))
@example(share=0.0)
@example(share=0.9999)
def test_a_truncated_file_is_refused_and_the_module_is_as_it_was(whole: File, share: float) -> None:
    path = whole.damaged(whole.data[: int(share * len(whole.data))])
    callback, model = sparse(), module()
    before = deep_copy(dict(model.state_dict()))
    with pytest.raises((RuntimeError, EOFError, UnpicklingError, OSError)):
        fit(callback, module=model, ckpt_path=path)
    assert differences(dict(model.state_dict()), before) == []
    assert (getattr(callback, "network", None), callback.history) == (None, [])
    assert differences(resumed(str(whole.path), callback, model), whole.expected) == []


@pytest.fixture
def without_checksums() -> Iterator[None]:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(before)


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="always with checksums before 2.6")
@pytest.mark.usefixtures("without_checksums")
def test_a_file_that_was_saved_without_checksums_is_resumed(whole: File) -> None:
    path = whole.damaged(saved_as(whole.content()))
    assert differences(resumed(path, sparse()), whole.expected) == []


def test_a_file_of_the_older_format_is_resumed(whole: File) -> None:
    path = whole.path.with_name("older.ckpt")
    torch.save(whole.content(), path, _use_new_zipfile_serialization=False)
    assert differences(resumed(str(path), sparse()), whole.expected) == []


def test_weights_that_were_edited_on_purpose_and_saved_again_are_resumed(whole: File) -> None:
    content, seen = whole.content(), []
    content["state_dict"]["net.0.weight"] *= 2
    model = module()
    model.on_train_start = lambda: seen.append(model.net[0].weight.detach().clone())
    resumed(whole.damaged(saved_as(content)), sparse(), model)
    assert differences(seen, [content["state_dict"]["net.0.weight"]]) == []


@pytest.mark.parametrize("path", [None, "no/such/file", "https://example.org/one.ckpt", ".", __file__])
def test_nothing_is_said_about_what_is_no_archive_of_pytorch(path: str | None) -> None:
    verify_checkpoint_file(path)


# --- The callback's state in a file that is whole


def state_of(content: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = content["callbacks"][KEY]
    return state


def put(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    place: Any = state_of(content)
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    place[int(last) if isinstance(place, list) else last] = value


def seal_again(content: dict[str, Any]) -> None:
    """Make the checksums fit what is wrong."""
    for holder, name in ((state_of(content), "network"), (content["callbacks"], KEY)):
        if isinstance(holder.get(name), dict):
            holder[name] = with_checksum(
                {key: value for key, value in holder[name].items() if key not in ("version", "checksum")}
            )


def swap_masks(content: dict[str, Any]) -> None:
    masks = state_of(content)["network"]["masks"]
    masks["net.0.weight"], masks["net.3.weight"] = masks["net.3.weight"], masks["net.0.weight"]


CHANGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a foreign entry": (lambda content: put(content, "note", 1), r"got \['note'\] too"),
    "a foreign entry of the network": (lambda content: put(content, "network/note", 1), "with the checksum"),
    "an entry less": (lambda content: state_of(content).pop("history"), r"none of \['history'\]"),
    "swapped masks": (swap_masks, "with the checksum"),
    "a later version": (lambda content: put(content, "version", 2), "of version 1; got 2"),
    "no version": (lambda content: state_of(content).pop("version"), "of version 1; got None"),
    "a later version of the network": (lambda content: put(content, "network/version", 2), "with the checksum"),
    "no checksum": (lambda content: state_of(content).pop("checksum"), "with the checksum None"),
    "another counter": (lambda content: put(content, "last/1", 4), "with the checksum"),
    "a checkpoint callback's state": (
        lambda content: content["callbacks"].update({KEY: ModelCheckpoint().state_dict()}),
        r"'step_offset'.*none of",
    ),
    "the state of a network alone": (
        lambda content: content["callbacks"].update({KEY: state_of(content)["network"]}),
        r"none of \['first', 'history'",
    ),
    "a list": (lambda content: content["callbacks"].update({KEY: [1, 2]}), r"got \[1, 2\]"),
    "a tensor": (lambda content: content["callbacks"].update({KEY: torch.ones(1)}), "got tensor"),
    "nothing": (lambda content: content["callbacks"].update({KEY: {}}), "got none"),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_a_changed_state_is_refused(whole: File, kind: str) -> None:
    change, message = CHANGED[kind]
    content = whole.content()
    change(content)
    refuses(whole, saved_as(content), rf"Expected .*{message}.*Cure: ")


COUNTERS = "Expected counters of epochs and steps, and records of updates; got"
STATE = "network"
FORGED: dict[str, tuple[str, Any, str]] = {
    "a counter as text": ("last/0", "1", COUNTERS),
    "a negative counter": ("first/1", -1, COUNTERS),
    "a truth value as counter": ("last/0", True, COUNTERS),
    "a fraction as counter": ("last/1", 3.0, COUNTERS),
    "a huge counter": ("last/1", 10**30, COUNTERS),
    "a counter that runs back": ("first/1", 4, COUNTERS),
    "one counter too many": ("first", [0, 0, 0], COUNTERS),
    "no counters": ("last", None, COUNTERS),
    "an offset as text": ("step_offset", "0", COUNTERS),
    "a huge offset": ("step_offset", -(10**30), COUNTERS),
    "a record as text": ("history/0", "first", COUNTERS),
    "a record without layers": ("history/0", {"epoch": 1, "step": 3, "prune_rate": 0.5}, COUNTERS),
    "a record of a negative epoch": ("history/0/epoch", -1, COUNTERS),
    "a record of a rate as text": ("history/0/prune_rate", "0.5", COUNTERS),
    "a record of a count as text": ("history/0/layers/net.0.weight/grown", "7", COUNTERS),
    "a record of another layer": ("history/0/layers/net.0.weight/name", "net.3.weight", COUNTERS),
    "a history as number": ("history", 3, COUNTERS),
    "no network": (STATE, None, "Expected the state of a network; got None"),
    "masks as list": ("network/masks", [], "Expected the masks of a state as a dictionary of Tensors; got"),
    "a mask of floats": ("network/masks/net.0.weight", torch.ones(6), r"Expected a packed mask of 6 bytes.*got"),
    "a mask not packed": ("network/masks/net.0.weight", torch.ones(8, 6, dtype=torch.bool), "Expected a packed mask"),
    "a full mask": ("network/masks/net.0.weight", torch.full((6,), 255, dtype=torch.uint8), "24 active.*got 62"),
    "shapes that are no lists": ("network/shapes/net.0.weight", "8, 6", "Expected the shapes of a state"),
    "another shape": ("network/shapes/net.0.weight", [6, 8], r"Expected masks of .*\(8, 6\).*got .*\(6, 8\)"),
    "a random state of floats": ("network/generator", torch.ones(5056), "Expected a generator's state; got"),
    "a random state as text": ("network/generator", "seed", "Expected a generator's state; got"),
    "steps as text": ("network/steps", "5", "number of optimizer steps >= 0 in the state; got '5'"),
    "negative steps": ("network/steps", -5, "got -5"),
    "a truth value as steps": ("network/steps", True, "got True"),
    "huge steps": ("network/steps", 10**30, "got 1000"),
    "an average of integers": (
        "network/averages/net.0.weight",
        torch.ones(8, 6, dtype=torch.int64),
        "Expected saved averages of the masked weights.*got 'net.0.weight'.*int64",
    ),
    "a gradient of another shape": (
        "network/gradients/net.0.weight",
        torch.ones(6, 8),
        r"Expected saved grad.*\(6, 8\)",
    ),
    "a gradient of an unknown layer": ("network/gradients/net.7.weight", torch.ones(1), "got 'net.7.weight'"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_state_of_wrong_content_is_refused_though_its_checksums_fit(whole: File, kind: str) -> None:
    path, value, message = FORGED[kind]
    content = whole.content()
    put(content, path, value)
    seal_again(content)
    refuses(whole, saved_as(content), rf"{message}.*Cure: ")


def test_what_is_sealed_again_unchanged_is_resumed(whole: File) -> None:
    content = whole.content()
    seal_again(content)
    assert differences(resumed(whole.damaged(saved_as(content)), sparse()), whole.expected) == []


# --- Code


class MakesAFolder:
    """Runs code where it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


def with_code(whole: File, trace: Path) -> str:
    content = whole.content()
    content["callbacks"][KEY] = MakesAFolder(trace)
    return whole.damaged(saved_as(content))


def resume(path: str, weights_only: bool | None) -> dict[str, Any]:
    callback = sparse()
    run = trainer(callback)
    run.fit(module(), ShufflingLoader(), ShufflingLoader(1), ckpt_path=path, weights_only=weights_only)
    return everything(run, callback)


OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)


@pytest.mark.parametrize(
    "weights_only",
    [True, pytest.param(None, marks=pytest.mark.skipif(OLD, reason="before 2.6 PyTorch runs code if not told to"))],
)
def test_code_in_place_of_the_state_is_not_run(whole: File, tmp_path: Path, weights_only: bool | None) -> None:
    path = with_code(whole, tmp_path / "trace")
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        resume(path, weights_only)
    assert not (tmp_path / "trace").exists()


def test_the_code_would_run_where_it_is_asked_for(whole: File, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected the state of SparseMomentumCallback"):
        resume(with_code(whole, tmp_path / "trace"), weights_only=False)
    assert (tmp_path / "trace").is_dir()


@pytest.mark.parametrize("weights_only", [True, False, None])
def test_a_whole_checkpoint_loads_with_code_forbidden_and_allowed(whole: File, weights_only: bool | None) -> None:
    assert differences(resume(str(whole.path), weights_only), whole.expected) == []
