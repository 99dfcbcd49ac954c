"""Rounds that are interrupted and resumed end as rounds that were not, bit for bit."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from round_training import RANKINGS, Training, active, model, of, values
from torch import nn

from lightning_sparse.network import SparseNetwork
from lightning_sparse.rounds import Round, run_rounds
from lightning_sparse.testing.equality import differences
from lightning_sparse.testing.randomness import global_states
from lightning_sparse.topology.pruning import signed_magnitude
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError

DENSITIES = [0.9, 0.7, 0.5, 0.3]


class Stopped(Training):
    """A training function that is interrupted in the middle of one round."""

    stops_in: int = -1

    def __call__(self, network: SparseNetwork, now: Round) -> float:
        if now.index == self.stops_in:
            self.steps = 2
            super().__call__(network, now)
            raise KeyboardInterrupt
        return super().__call__(network, now)


def plain(rounds: list[Round]) -> list[Any]:
    return [(now.index, now.density, now.active, now.first_step, now.masks, now.result) for now in rounds]


def _earlier() -> list[Round]:
    return run_rounds(Training(steps=2), model(), DENSITIES, recipe=RANKINGS["network"], seed=3)


CASES: dict[str, dict[str, Any]] = {
    "rewound": {"densities": DENSITIES},
    "rewound to a step": {"densities": DENSITIES, "rewind": 4},
    "ranked together": {"densities": [1.0, *DENSITIES[1:]], "recipe": RANKINGS["network"], "dense": "6"},
    "continued": {"densities": DENSITIES, "start": "continued"},
    "reinitialized": {"densities": DENSITIES, "start": "reinitialized"},
    "random masks": {"densities": DENSITIES, "masks": "random", "rewind": 2},
    "moving weights": {"densities": DENSITIES, "recipe": "set"},
    "reinitialized tickets": {"masks_of": _earlier(), "start": "reinitialized"},
    "random tickets": {"masks_of": _earlier(), "masks": "random", "seed": 4},
    "random tickets at a step": {"masks_of": _earlier(), "masks": "random", "rewind": 3},
    "continued tickets": {"masks_of": _earlier(), "start": "continued"},
}


@pytest.mark.parametrize("stops_in", range(5))
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_stops_in_any_round_ends_as_one_that_does_not(case: str, stops_in: int, tmp_path: Path) -> None:
    torch.manual_seed(7)  # of the data and of dropout, too
    net = model(dropout=0.3)
    expected = run_rounds(Training(fixed=False), net, **CASES[case])
    left = global_states()["torch"]

    torch.manual_seed(7)
    stopped = Stopped(fixed=False)
    stopped.stops_in = stops_in
    first = model(dropout=0.3)
    if stops_in < 4:
        with pytest.raises(KeyboardInterrupt):
            run_rounds(stopped, first, checkpoint=tmp_path, **CASES[case])
    else:
        run_rounds(stopped, first, checkpoint=tmp_path, **CASES[case])
    if stops_in:
        torch.manual_seed(99)  # another process has other states, and other initial weights
    else:
        torch.manual_seed(7)
    again = Training(fixed=False)
    other = model(seed=0 if stops_in == 0 else 5, dropout=0.3)
    found = run_rounds(again, other, checkpoint=tmp_path, **CASES[case])
    assert [now.index for now in again.rounds] == [*range(stops_in, 4)]
    assert differences(plain(found), plain(expected)) == []
    assert differences(values(other), values(net)) == []
    assert torch.equal(global_states()["torch"], left)


def test_the_same_module_may_be_used_to_resume(tmp_path: Path) -> None:
    expected = run_rounds(Training(), model(), DENSITIES)
    stopped, net = Stopped(), model()
    stopped.stops_in = 2
    with pytest.raises(KeyboardInterrupt):
        run_rounds(stopped, net, DENSITIES, checkpoint=tmp_path)
    assert differences(plain(run_rounds(Training(), net, DENSITIES, checkpoint=tmp_path)), plain(expected)) == []


def test_modules_are_in_the_modes_of_the_interrupted_run(tmp_path: Path) -> None:
    stopped, net = Stopped(), model()
    stopped.stops_in = 1
    net[1].eval()
    with pytest.raises(KeyboardInterrupt):
        run_rounds(stopped, net, [1.0, 0.5], checkpoint=tmp_path)
    modes: list[list[bool]] = []
    again = Training(before=lambda network, now: modes.append([part.training for part in network.model.children()]))
    run_rounds(again, model(), [1.0, 0.5], checkpoint=tmp_path)
    assert modes == [[True, False, True, True, True, True, True]]


def test_without_a_folder_a_repeated_call_begins_at_the_first_round(tmp_path: Path) -> None:
    training = Training(steps=1)
    run_rounds(training, model(), [1.0, 0.5])
    run_rounds(training, model(), [1.0, 0.5])
    assert [now.index for now in training.rounds] == [0, 1, 0, 1]
    assert [*tmp_path.iterdir()] == []


def test_the_file_has_tensors_and_plain_values_only_and_nothing_else_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    run_rounds(Training(steps=1), model(), [1.0, 0.5], checkpoint=str(folder))
    assert os.listdir(folder) == ["rounds.pt"]  # noqa: PTH208  # names, as they are
    saved = torch.load(folder / "rounds.pt", weights_only=True)
    assert len(saved["rounds"]) == 2


@pytest.mark.parametrize(
    "result",
    [
        None,
        3.5,
        "text",
        {"accuracy": 0.5, "confusion": torch.eye(2), 3: [1, (2, True, None)]},
        [{"val_loss": 0.25}],
    ],
    ids=repr,
)
def test_plain_results_are_saved(result: Any, tmp_path: Path) -> None:
    def fit(network: SparseNetwork, now: Round) -> Any:
        Training(steps=1)(network, now)
        return result

    rounds = run_rounds(fit, model(), [1.0, 0.5], checkpoint=tmp_path)
    again = run_rounds(fit, model(), [1.0, 0.5], checkpoint=tmp_path)
    assert differences([now.result for now in again], [now.result for now in rounds]) == []
    assert differences(rounds[0].result, result) == []


@pytest.mark.parametrize(
    "result", [nn.Linear(2, 2), {"model": nn.ReLU()}, {(1, 2): 3.0}, [{1, 2}], Counter("a")], ids=repr
)
@pytest.mark.filterwarnings("default")
def test_other_results_are_none_after_a_resume_as_a_warning_says(result: Any, tmp_path: Path) -> None:
    def fit(network: SparseNetwork, now: Round) -> Any:
        Training(steps=1)(network, now)
        return result

    with pytest.warns(UserWarning, match="Expected a result of tensors and plain values"):
        rounds = run_rounds(fit, model(), [1.0, 0.5], checkpoint=tmp_path)
    assert rounds[0].result is result
    assert [now.result for now in run_rounds(fit, model(), [1.0, 0.5], checkpoint=tmp_path)] == [None, None]
    run_rounds(fit, model(), [1.0, 0.5])  # where nothing is saved, nothing is said


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"densities": [1.0, 0.6]}, "densities"),
    ({"rewind": 1}, "rewind"),
    ({"recipe": RANKINGS["network"]}, "recipe"),
    ({"recipe": {"*": RANKINGS["layer"]}}, "recipe"),
    ({"recipe": Recipe(signed_magnitude)}, "recipe"),
    ({"start": "continued"}, "start"),
    ({"masks": "random"}, "masks"),
    ({"seed": 2}, "seed"),
    ({"exclude": "6"}, "options"),
    ({"include": [nn.Linear, "3"]}, "options"),
    ({"include": nn.Linear}, "options"),
    ({"min_active": 3}, "options"),
]


@pytest.mark.parametrize(("other", "name"), OTHERS, ids=repr)
def test_the_file_of_other_rounds_is_refused_and_nothing_is_changed(
    other: dict[str, Any], name: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"densities": [1.0, 0.5], "seed": 1, "checkpoint": tmp_path}
    run_rounds(Training(steps=1), model(), **options)
    net, training = model(3), Training()
    before, random = values(net), global_states()
    content = (tmp_path / "rounds.pt").read_bytes()
    with pytest.raises(InvalidValueError, match=rf"the same {name} in '.*rounds\.pt'; got {name}="):
        run_rounds(training, net, **{**options, **other})
    assert differences(values(net), before) == []
    assert differences(global_states(), random) == []
    assert not training.rounds
    assert (tmp_path / "rounds.pt").read_bytes() == content


def test_masks_of_other_rounds_are_refused(tmp_path: Path) -> None:
    rounds = run_rounds(Training(steps=1), model(), [1.0, 0.5])
    others = run_rounds(Training(steps=5), model(1), [1.0, 0.5])
    run_rounds(Training(steps=1), model(), masks_of=rounds, checkpoint=tmp_path)
    with pytest.raises(InvalidValueError, match="the same masks_of"):
        run_rounds(Training(steps=1), model(), masks_of=others, checkpoint=tmp_path)
    assert len(run_rounds(Training(steps=1), model(), masks_of=rounds, checkpoint=tmp_path)) == 2


def test_the_file_of_another_module_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    run_rounds(Training(steps=1), model(), [1.0, 0.5], checkpoint=tmp_path)
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    before = values(net)
    with pytest.raises(InvalidValueError, match="others, or of another shape"):
        run_rounds(Training(), net, [1.0, 0.5], checkpoint=tmp_path)
    assert differences(values(net), before) == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "foreign"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    run_rounds(Training(steps=1), model(), [1.0, 0.5], checkpoint=tmp_path)
    file = tmp_path / "rounds.pt"
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
    file.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    if damage == "foreign":
        torch.save({"state_dict": {}}, file)
    with pytest.raises(InvalidValueError, match="Cure"):
        run_rounds(Training(), model(), [1.0, 0.5], checkpoint=tmp_path)


def test_a_round_that_can_not_be_saved_leaves_the_file_of_the_round_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def fails(content: Any, file: Any) -> None:
        save(content, file)
        if len(content["rounds"]) == 2:
            raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="full"):
        run_rounds(Training(), model(), DENSITIES, checkpoint=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["rounds.pt"]
    monkeypatch.setattr(torch, "save", save)
    training = Training()
    run_rounds(training, model(), DENSITIES, checkpoint=tmp_path)
    assert [now.index for now in training.rounds] == [1, 2, 3]


def test_who_reads_the_file_meanwhile_finds_all_of_the_former_state(tmp_path: Path) -> None:
    found: list[bytes] = []

    class Reading(Training):
        def __call__(self, network: SparseNetwork, now: Round) -> float:
            if now.index == 1:
                found.append((tmp_path / "rounds.pt").read_bytes())
                self.reader = (tmp_path / "rounds.pt").open("rb")
            return super().__call__(network, now)

    training = Reading(steps=1)
    run_rounds(training, model(), [1.0, 0.5], checkpoint=tmp_path)
    with training.reader as file:
        found.append(file.read())
    assert found[0] == found[1] != (tmp_path / "rounds.pt").read_bytes()


def test_other_processes_than_the_first_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_sparse.rounds.file.is_rank_zero", lambda: False)
    run_rounds(Training(steps=1), model(), [1.0, 0.5], checkpoint=tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_checkpoint_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    training = Training()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidValueError, match="a folder as checkpoint"):
            run_rounds(training, model(), [1.0], checkpoint=path)
    with pytest.raises(InvalidTypeError, match="a folder as checkpoint"):
        run_rounds(training, model(), [1.0], checkpoint=3)  # type: ignore[arg-type]  # no path
    assert not training.rounds


def test_masks_in_the_file_take_a_bit_per_weight_and_are_those_of_the_rounds(tmp_path: Path) -> None:
    rounds = run_rounds(Training(steps=1), model(), [1.0, 0.5], checkpoint=tmp_path)
    saved = torch.load(tmp_path / "rounds.pt", weights_only=True)
    assert saved["rounds"][1]["masks"]["3.weight"].shape == (7,)
    again = run_rounds(Training(), model(), [1.0, 0.5], checkpoint=tmp_path)
    assert active(again[1].masks) == active(rounds[1].masks)
    assert of(model(), "3").weight.numel() == 56
