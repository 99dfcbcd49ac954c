"""A run says what it reads as momentum, and trains with optimizers whose state is something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import ManualModule, TinyModule, differences, everything, fit, saving_at
from torch.nn import Parameter
from torch.optim import SGD, AdamW, Optimizer
from witness import BUDGET, DENSITY, Watch

from lightning_sparse import SparseMomentumCallback


class LowRank(Optimizer):
    """Adam in a space of two dimensions, where its moments have another shape than the weights."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.01, "eps": None})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            found = None if closure is None else closure()
        for weight in (each for group in self.param_groups for each in group["params"] if each.grad is not None):
            basis = torch.linalg.svd(weight.grad, full_matrices=False)[0][:, :2] if weight.dim() == 2 else None
            gradient = weight.grad if basis is None else basis.T @ weight.grad
            state = self.state[weight]
            state["exp_avg"] = state.get("exp_avg", 0) * 0.9 + 0.1 * gradient
            state["exp_avg_sq"] = state.get("exp_avg_sq", 0) * 0.999 + 0.001 * gradient**2
            step = state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)
            weight.sub_(0.01 * (step if basis is None else basis @ step))
        return found


class Chooses(TinyModule):
    """Takes any optimizer."""

    def __init__(self, optimizer: Callable[[list[Parameter]], Optimizer]) -> None:
        super().__init__()
        self.optimizer = optimizer

    def configure_optimizers(self) -> Any:
        return self.optimizer(list(self.parameters()))


@pytest.mark.parametrize("options", [{}, {"growth": "random"}, {"redistribution": "none"}], ids=str)
def test_an_optimizer_with_states_of_another_shape_trains_with_updates(options: dict[str, Any]) -> None:
    callback = SparseMomentumCallback(density=DENSITY, **options)
    watch = Watch(callback)
    fit(callback, watch, module=Chooses(LowRank))
    assert (watch.stray, set(watch.budgets), len(callback.history)) == ([], {BUDGET}, 2)


READ = "Momentum of AdamW (2 weights): exp_avg / (sqrt(exp_avg_sq) + eps) of its state"
KEPT = "Momentum of SGD (2 weights): 0.9 * average + 0.1 * gradient, kept by the sparse network in 320 bytes"
SUMMARIES = {
    READ: lambda parameters: AdamW(parameters, 0.01),
    KEPT: lambda parameters: SGD(parameters, 0.01),
}


@pytest.mark.parametrize("printed", [True, False])
@pytest.mark.parametrize("line", SUMMARIES)
def test_the_summary_says_what_is_read_of_each_optimizer(
    line: str, printed: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    fit(SparseMomentumCallback(density=DENSITY), module=Chooses(SUMMARIES[line]), enable_model_summary=printed)
    assert (line in " ".join(capsys.readouterr().out.split())) is printed


def test_nothing_is_said_of_momentum_that_no_rule_needs(capsys: pytest.CaptureFixture[str]) -> None:
    callback = SparseMomentumCallback(density=DENSITY, redistribution="none", growth="random")
    fit(callback, module=Chooses(LowRank), enable_model_summary=True)
    output = capsys.readouterr().out
    assert "Sparse training" in output
    assert "Momentum of" not in output


def test_a_run_of_two_optimizers_with_averages_for_both_resumes_exactly(tmp_path: Path) -> None:
    whole = SparseMomentumCallback(density=DENSITY)
    run = fit(whole, saving_at(5, tmp_path / "one.ckpt"), module=ManualModule())
    assert whole.network is not None
    assert len(whole.network.state_dict()["averages"]) == 2
    resumed = SparseMomentumCallback(density=DENSITY)
    again = fit(resumed, module=ManualModule(), ckpt_path=str(tmp_path / "one.ckpt"))
    assert differences(everything(again, resumed), everything(run, whole)) == []
