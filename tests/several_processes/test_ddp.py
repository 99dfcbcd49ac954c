"""Under DDP, all processes have the same masks and weights, or training stops with an error."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.testing.equality import differences
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.redistribution import REDISTRIBUTION

from .processes import run
from .training import BATCH, Model, Record, ddp, loader, report, trainer, whole

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")

RULES = [
    {"pruning": pruning, "redistribution": redistribution, "growth": growth}
    for pruning, redistribution, growth in product(PRUNING, REDISTRIBUTION, GROWTH)
]


def train(processes: int, options: dict[str, Any], **trainer_options: Any) -> dict[str, Any]:
    """Train in one of the processes of a run."""
    sparse = SparseMomentumCallback(**{"density": 0.3, "schedule": "linear", **options})
    record = Record(sparse)
    several = {"strategy": ddp(), "devices": processes} if processes > 1 else {}
    run_ = trainer(sparse, record, **several, **trainer_options)
    run_.fit(Model(), loader(BATCH // processes))
    return report(sparse, record)


def in_processes(processes: int, folder: Path, options: dict[str, Any], **trainer_options: Any) -> list[Any]:
    """Train in several processes and return what each reports."""
    return run(_train, processes, folder, processes, options, trainer_options)


def _train(processes: int, options: dict[str, Any], trainer_options: dict[str, Any]) -> dict[str, Any]:
    return train(processes, options, **trainer_options)


def same(left: Any, right: Any) -> bool:
    """Tell whether two reports are bit for bit the same."""
    assert not isinstance(left, str), left  # a process that failed reports why
    return differences(left, right) == []


def strays(reported: dict[str, Any]) -> int:
    """Return how many inactive weights were not zero, after any batch."""
    return sum(
        int(torch.count_nonzero(moment["weights"][name][~mask]))
        for moment in reported["moments"]
        for name, mask in moment["masks"].items()
    )


@pytest.mark.parametrize("options", RULES, ids=lambda options: "-".join(options.values()))
def test_two_processes_with_different_seeds_agree_after_every_batch_and_update(
    tmp_path: Path, options: dict[str, str]
) -> None:
    first, second = in_processes(2, tmp_path, options)
    assert same(first, second)
    assert sum(update["layers"]["net.0.weight"]["grown"] for update in first["history"]) > 0
    assert strays(first) == 0
    masks = [sum(int(mask.sum()) for mask in moment["masks"].values()) for moment in first["moments"]]
    assert set(masks) == {round(0.3 * 133)}


class Tokens(Model):
    """Applies its first layer to several tokens of an example, in each process to another number."""

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        inputs, labels = batch
        tokens = inputs.unsqueeze(1).expand(-1, 3 + 2 * self.global_rank, -1)
        return torch.nn.functional.cross_entropy(self.net[1:](self.net[0](tokens)).mean(1), labels)


def _train_tokens(rule: str) -> dict[str, Any]:
    sparse = SparseMomentumCallback(density=0.3, redistribution=rule)
    record = Record(sparse)
    trainer(sparse, record, strategy=ddp(), devices=2).fit(Tokens(), loader(BATCH // 2))
    assert sparse.network is not None
    return {**report(sparse, record), "multiplications": sparse.network.multiplications}


@pytest.mark.parametrize("rule", ["momentum_per_multiplication", "momentum_per_root_multiplication"])
def test_processes_whose_batches_cost_differently_decide_by_the_costs_of_the_first(tmp_path: Path, rule: str) -> None:
    first, second = run(_train_tokens, 2, tmp_path, rule)
    assert same(first, second)
    assert first["multiplications"]["net.0.weight"] == 3.0


@pytest.mark.parametrize("growth", GROWTH)
def test_four_processes_agree_with_accumulation_and_a_ragged_tail(tmp_path: Path, growth: str) -> None:
    reports = in_processes(4, tmp_path, {"growth": growth}, accumulate_grad_batches=2)
    assert all(same(reports[0], other) for other in reports[1:])
    assert strays(reports[0]) == 0


@pytest.mark.parametrize("options", [{}, {"every_n_steps": 2}], ids=str)
def test_the_number_of_processes_changes_neither_the_schedule_nor_the_density(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    # As many steps in both runs.
    (alone,), (first, _) = run(_train, 1, tmp_path, 1, options, {}), in_processes(2, tmp_path, options)
    assert [update["prune_rate"] for update in alone["history"]] == [
        update["prune_rate"] for update in first["history"]
    ]
    assert same(alone["moments"][0]["masks"], first["moments"][0]["masks"])


def _train_whole_batches(processes: int, growth: str) -> dict[str, Any]:
    sparse = SparseMomentumCallback(density=0.3, growth=growth, seed=1)
    record = Record(sparse)
    several = {"strategy": ddp(), "devices": processes} if processes > 1 else {}
    # 40 rows: each process has half of every batch, the same rows in each.
    trainer(sparse, record, limit_train_batches=5, use_distributed_sampler=False, **several).fit(
        Model(dtype=torch.float64), _Halves(processes)
    )
    return report(sparse, record)


class _Halves:
    """Each process's rows of each batch of eight."""

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Any:
        rank = torch.distributed.get_rank() if self._processes > 1 else 0
        for inputs, labels in loader():
            yield [inputs[rank :: self._processes], labels[rank :: self._processes]]


@pytest.mark.parametrize("growth", ["momentum", "gradient"])
def test_a_run_in_two_processes_has_the_masks_of_one_with_the_same_batches(tmp_path: Path, growth: str) -> None:
    (alone,) = run(_train_whole_batches, 1, tmp_path, 1, growth)
    first, second = run(_train_whole_batches, 2, tmp_path, 2, growth)
    assert same(first, second)
    for one, two in zip(alone["moments"], first["moments"], strict=True):
        assert same(one["masks"], two["masks"])
        torch.testing.assert_close(one["weights"], two["weights"], rtol=1e-9, atol=1e-12)


class Meddler(Callback):
    """Changes a weight on one rank, in the second epoch."""

    def __init__(self, what: str) -> None:
        self._what = what

    def on_train_batch_start(self, run: Any, module: Model, *_: Any) -> None:
        if run.current_epoch == 1 and run.global_rank == 1 and run.is_last_batch is False:
            momentum = run.optimizers[0].state[module.net[0].weight]["momentum_buffer"]
            (momentum if self._what == "momentum" else module.net[0].weight.data).mul_(-1.5 if self._what else 1)


def _train_with(what: str) -> dict[str, Any]:
    sparse = SparseTrainingCallback(density=0.3)
    record = Record(sparse)
    trainer(Meddler(what), sparse, record, strategy=ddp(), devices=2).fit(Model(), loader())
    return report(sparse, record)


@pytest.mark.parametrize("what", ["momentum", "weight"])
def test_processes_that_diverge_are_stopped_on_every_rank(tmp_path: Path, what: str) -> None:
    messages = run(_train_with, 2, tmp_path, what)
    for message in messages:
        assert "Expected the same" in message
        assert "rank 1 than on rank 0. Cure:" in message


def test_processes_that_agree_are_not_stopped(tmp_path: Path) -> None:
    first, second = run(_train_with, 2, tmp_path, "")
    assert same(first, second)


def _train_and_resume(path: str) -> list[dict[str, Any]]:
    reports = []
    for ckpt_path in (None, path):
        sparse = SparseMomentumCallback(density=0.3, growth="random")
        record = Record(sparse)
        run_ = trainer(sparse, record, _SaveAt(path), strategy=ddp(), devices=2)
        run_.fit(Model(), loader(), ckpt_path=ckpt_path)
        reports.append({**report(sparse, record), "weights": [*map(whole, run_.lightning_module.parameters())]})
    return [{key: reported[key] for key in ("state", "weights", "history")} for reported in reports]


class _SaveAt(Callback):
    def __init__(self, path: str) -> None:
        self._path = path

    def on_train_epoch_end(self, run: Any, module: Model) -> None:
        if run.current_epoch == 1:
            run.save_checkpoint(self._path)


def test_a_run_in_two_processes_resumes_exactly(tmp_path: Path) -> None:
    for whole_run, resumed in run(_train_and_resume, 2, tmp_path, str(tmp_path / "one.ckpt")):
        assert same(whole_run, resumed)


class Everywhere(Logger):
    """A logger that logs on every rank, as a user may write one."""

    name, version = "everywhere", 0  # type: ignore[assignment]  # properties of the base class

    def __init__(self) -> None:
        super().__init__()
        self.logged = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged += "sparsity/density" in metrics

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing is stored."""


def _logged(processes: int) -> int:
    logger = Everywhere()
    options = {"strategy": ddp(), "devices": processes, "logger": logger, "log_every_n_steps": 1}
    run_ = trainer(SparseMomentumCallback(density=0.3), **options)
    run_.fit(Model(), loader(BATCH // processes))
    return logger.logged


def test_rank_zero_alone_logs(tmp_path: Path) -> None:
    assert run(_logged, 2, tmp_path, 2) == [3, 0]  # at the start and after two updates
