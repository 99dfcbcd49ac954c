"""One line beside sparse training lets kernels compute it, and growth still sees real gradients when it decides."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from sparse_rows import needs_kernels
from tiny_training import At, ShufflingLoader, TinyModule, everything, fit, saved, saving_everywhere, stray_weights
from torch import nn

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse._compat import MisconfigurationException
from lightning_sparse.callbacks.sparse_training.sparse_execution import SparseExecution
from lightning_sparse.execution.programs import choices
from lightning_sparse.execution.programs.choices import Timing
from lightning_sparse.execution.programs.compiled import Part
from lightning_sparse.testing.callbacks.runs import quiet
from lightning_sparse.testing.equality import differences

pytestmark = needs_kernels


class Watch:
    """Which batches computed all gradients, by epoch."""

    def __init__(self, execution: SparseExecution) -> None:
        self.dense: list[list[bool]] = []
        self._execution = execution
        self.at = At("on_train_batch_end", self._note)

    def _note(self, trainer: Any, module: Any) -> None:
        handle = self._execution.execution
        assert handle is not None
        while len(self.dense) <= trainer.current_epoch:
            self.dense.append([])
        self.dense[trainer.current_epoch].append(handle.is_dense)


def dense_batches(execution: SparseExecution, sparse: SparseTrainingCallback, **options: Any) -> list[str]:
    """Return a string for each epoch, with a D for each dense batch and an s for each sparse one."""
    watch = Watch(execution)
    fit(execution, sparse, watch.at, loader=ShufflingLoader(options.pop("batches", 4)), **options)
    return ["".join("sD"[each] for each in epoch) for epoch in watch.dense]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (0, ["ssss", "ssss", "ssss"]),
        (1, ["sssD", "sssD", "ssss"]),
        (3, ["sDDD", "sDDD", "ssss"]),
        ("auto", ["DDDD", "DDDD", "ssss"]),
        ("always", ["DDDD", "DDDD", "DDDD"]),
    ],
)
def test_the_last_steps_before_each_update_are_dense_and_none_after_the_last(steps: Any, expected: list[str]) -> None:
    sparse = SparseMomentumCallback(density=0.3)
    assert dense_batches(SparseExecution("always", steps), sparse) == expected
    assert len(sparse.history) == 2


@pytest.mark.parametrize(
    ("options", "run", "expected"),
    [
        ({"every_n_steps": 6}, {}, ["ssss", "sDss", "ssss"]),
        ({"every_n_epochs": 2}, {}, ["ssss", "sssD", "ssss"]),
        ({"every_n_epochs": 2}, {"max_epochs": 4}, ["ssss", "sssD", "ssss", "ssss"]),
        ({}, {"accumulate_grad_batches": 3, "batches": 7}, ["ssssssD", "ssssssD", "sssssss"]),
        ({}, {"accumulate_grad_batches": 3, "batches": 6}, ["sssDDD", "sssDDD", "ssssss"]),
        ({"growth": "random"}, {}, ["ssss", "ssss", "ssss"]),
        ({"growth": "gradient"}, {}, ["sssD", "sssD", "ssss"]),
    ],
)
def test_dense_steps_follow_the_periods_of_updates(
    options: dict[str, Any], run: dict[str, Any], expected: list[str]
) -> None:
    steps: Any = "auto" if "growth" in options else 1
    sparse = SparseMomentumCallback(density=0.3, **options)
    found = dense_batches(SparseExecution("always", steps), sparse, **run)
    assert found == expected


def test_the_order_of_the_callbacks_is_all_the_same() -> None:
    found = []
    for first in (True, False):
        execution, sparse = SparseExecution("always", 1), SparseMomentumCallback(density=0.3, every_n_steps=3, seed=1)
        watch, module = Watch(execution), TinyModule()
        callbacks = [execution, sparse] if first else [sparse, execution]
        fit(*callbacks, watch.at, module=module)
        found.append((watch.dense, module.state_dict()))
    assert found[0][0] == found[1][0]
    assert not differences(found[0][1], found[1][1])


def _trained(*callbacks: Any, sparse: SparseTrainingCallback) -> dict[str, Any]:
    torch.manual_seed(0)
    return everything(fit(*callbacks, sparse), sparse)


def test_dense_in_all_steps_is_the_run_without_it_bit_for_bit() -> None:
    with_it = _trained(SparseExecution(dense_steps="always"), sparse=SparseMomentumCallback(density=0.3, seed=1))
    without = _trained(sparse=SparseMomentumCallback(density=0.3, seed=1))
    assert not differences(with_it, without)
    sparsely = _trained(SparseExecution("always", 0), sparse=SparseMomentumCallback(density=0.3, seed=1))
    assert differences(sparsely, without)


def test_kernels_run_and_inactive_weights_stay_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, original = list[bool](), Part._chain

    def chain(part: Part, inputs: Any) -> Any:
        found = original(part, inputs)
        ran.append(found is not None)
        return found

    monkeypatch.setattr(Part, "_chain", chain)
    sparse, module = SparseMomentumCallback(density=0.3), TinyModule()
    fit(SparseExecution("always", 1), sparse, module=module)
    assert any(ran)
    assert not stray_weights(sparse, module)
    assert not any("forward" in vars(each) for each in module.modules())
    count = len(ran)
    module.net(torch.randn(4, 6))
    assert len(ran) == count


@pytest.mark.parametrize("moment", [f"step={step}" for step in range(1, 6)])
def test_a_run_resumes_exactly_from_any_step(tmp_path: Path, moment: str) -> None:
    def run(*others: Any, **options: Any) -> dict[str, Any]:
        sparse = SparseMomentumCallback(density=0.3, seed=1)
        callbacks = [SparseExecution("always", 1), sparse, *others]
        return everything(fit(*callbacks, loader=ShufflingLoader(2), **options), sparse)

    whole = run(*saving_everywhere(tmp_path))
    checkpoints = [path for name, path in saved(tmp_path).items() if moment in name]
    assert checkpoints
    for checkpoint in checkpoints:
        with quiet():
            assert not differences(run(ckpt_path=checkpoint), whole)


def test_choices_are_saved_and_made_again_by_a_resumed_run_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SparseExecution(dense_steps=0)
    fit(first, SparseMomentumCallback(density=0.3), *saving_everywhere(tmp_path))
    chosen = first.state_dict()["choices"]
    assert chosen
    checkpoint = next(path for name, path in saved(tmp_path).items() if "step=4" in name)
    timings: list[object] = []

    def timed(*arguments: object) -> Timing:
        timings.append(arguments)
        return Timing(1.0, 0.5)

    monkeypatch.setattr(choices, "timed", timed)
    second = SparseExecution(dense_steps=0)
    with quiet():
        fit(second, SparseMomentumCallback(density=0.3), ckpt_path=checkpoint)
    assert second.state_dict()["choices"] == chosen
    assert not timings
    fit(second, SparseMomentumCallback(density=0.3))
    assert timings


def test_a_run_that_fails_leaves_the_module_as_it_was() -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("lost")

    module = TinyModule()
    with pytest.raises(RuntimeError, match="lost"):
        fit(SparseExecution(), SparseMomentumCallback(density=0.3), At("on_train_batch_end", fail), module=module)
    assert not any("forward" in vars(each) for each in module.modules())


def test_the_summary_says_what_runs_by_kernels_and_what_not(capsys: pytest.CaptureFixture[str]) -> None:
    class WithNorm(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.net[2] = nn.Tanh()

    options = {"enable_model_summary": True}
    fit(SparseExecution("always", 1), SparseMomentumCallback(density=0.3), module=WithNorm(), **options)
    text = " ".join(capsys.readouterr().out.split())
    assert "net.0, 1 modules: sparse." in text or "part 0, 1 modules: sparse." in text
    assert "Gradients of inactive weights: in the last 1 steps before each topology update." in text
    fit(SparseExecution("always", "always"), SparseMomentumCallback(density=0.3), **options)
    assert "in all steps, so that all of them run dense" in " ".join(capsys.readouterr().out.split())
    fit(SparseExecution("always", 1), SparseMomentumCallback(density=0.3))
    assert "Gradients of inactive" not in capsys.readouterr().out


def test_it_needs_a_callback_for_sparse_training() -> None:
    with pytest.raises(MisconfigurationException, match="add SparseMomentumCallback"):
        fit(SparseExecution())


@pytest.mark.parametrize("steps", [-1, 1.5, True, "never", inf])
def test_other_numbers_of_dense_steps_are_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match="dense_steps"):
        SparseExecution(dense_steps=steps)


def test_other_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="'auto' or 'always'"):
        SparseExecution("sometimes")  # type: ignore[arg-type]  # what a user may pass
