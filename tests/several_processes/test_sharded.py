"""Weights that FSDP2 splits over processes: the global budget is exact, and the masks are those of one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.network import SparseNetwork
from lightning_sparse.testing.equality import differences
from lightning_sparse.topology.growth import GROWTH
from lightning_sparse.topology.layer import is_shardable
from lightning_sparse.topology.pruning import PRUNING
from lightning_sparse.topology.redistribution import REDISTRIBUTION

from .processes import run
from .training import Model, Record, loader, report, trainer, whole

fsdp = pytest.importorskip("torch.distributed.fsdp")
pytestmark = pytest.mark.skipif(not hasattr(fsdp, "fully_shard"), reason="before PyTorch 2.6, FSDP2 needs CUDA")

RULES = [
    {"pruning": pruning, "redistribution": redistribution, "growth": growth}
    for pruning, redistribution, growth in product(PRUNING, REDISTRIBUTION, GROWTH)
    if is_shardable(PRUNING[pruning])
]


class Sharded(Model):
    """Splits its linear layers, whose sizes no number of processes divides, over all processes."""

    def configure_model(self) -> None:
        if self.device_mesh is not None and not hasattr(self, "is_split"):
            self.is_split = True
            for layer in (*self.net, self.net):
                fsdp.fully_shard(layer, mesh=self.device_mesh["data_parallel"])


def strategy(processes: int, **options: Any) -> dict[str, Any]:
    """Return the Trainer's options for a number of processes."""
    if processes == 1:
        return {}
    split = ModelParallelStrategy(
        data_parallel_size=processes, tensor_parallel_size=1, process_group_backend="gloo", **options
    )
    return {"strategy": split, "devices": processes, "use_distributed_sampler": False}


def train(
    processes: int, options: dict[str, Any], optimizer: str = "momentum", *others: Callback, **fit: Any
) -> dict[str, Any]:
    """Train in one of the processes of a run, all of which see the same batches."""
    sparse = SparseMomentumCallback(**{"density": 0.3, "schedule": "linear", "seed": 5, **options})
    record = Record(sparse)
    model = Sharded(optimizer, torch.float64)
    trainer(sparse, record, *others, **strategy(processes)).fit(model, loader(), **fit)
    assert type(model.net[0].weight).__name__ == ("Parameter" if processes == 1 else "DTensor")
    assert sparse.network is not None
    assert sparse.network.is_sharded is (processes > 1)
    return report(sparse, record)


def check_like_one_process(processes: int, folder: Path, *arguments: Any) -> None:
    """Compare all processes with each other, and with a run of a single one."""
    (alone,) = run(partial(train, 1), 1, folder, *arguments)
    reports = run(partial(train, processes), processes, folder, *arguments)
    for reported in (alone, *reports):
        assert not isinstance(reported, str), reported
    for other in reports[1:]:
        assert differences(reports[0], other) == []
    assert (
        differences([update["layers"] for update in alone["history"]], [u["layers"] for u in reports[0]["history"]])
        == []
    )
    assert sum(layer["grown"] for update in alone["history"] for layer in update["layers"].values()) > 0
    for one, several in zip(alone["moments"], reports[0]["moments"], strict=True):
        assert differences(one["masks"], several["masks"]) == []
        assert sum(int(mask.sum()) for mask in several["masks"].values()) == round(0.3 * 133)
        assert not any(several["weights"][name][~mask].any() for name, mask in several["masks"].items())
        torch.testing.assert_close(one["weights"], several["weights"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", RULES, ids=lambda options: "-".join(options.values()))
def test_two_processes_with_split_weights_have_the_masks_of_one(tmp_path: Path, options: dict[str, str]) -> None:
    check_like_one_process(2, tmp_path, options)


def test_processes_whose_part_of_a_layer_is_empty_take_part(tmp_path: Path) -> None:
    # The layers of five rows are split into parts of 2, 2, 1 and 0 rows.
    check_like_one_process(4, tmp_path, {"growth": "random", "every_n_steps": 2})


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_momentum_of_split_weights_comes_from_any_optimizer(tmp_path: Path, optimizer: str) -> None:
    check_like_one_process(2, tmp_path, {}, optimizer)


def _train_by(options: dict[str, Any]) -> int:
    sparse = SparseTrainingCallback(density=0.3, **options)
    steps: list[int] = []
    counting = Record(sparse)
    counting.on_train_batch_end = lambda *_: steps.append(1)  # type: ignore[method-assign]  # a spy
    counting.on_train_batch_start = lambda *_: steps.append(0)  # type: ignore[method-assign]  # a spy
    trainer(sparse, counting, **strategy(2)).fit(Sharded(), loader())
    return len(steps)


def test_rules_that_need_whole_weights_are_refused_before_the_first_step(tmp_path: Path) -> None:
    for message in run(_train_by, 2, tmp_path, {"recipe": "set_original"}):
        assert "Expected rules that work on weights that are split over processes; got signed_magnitude" in message
        assert "Cure: " in message
    assert run(_train_by, 2, tmp_path, {"recipe": "set"}) == [36, 36]


class _Save(Callback):
    def __init__(self, path: str, step: int) -> None:
        self._path, self._step = path, step

    def on_train_batch_end(self, run_: Any, *_: Any) -> None:
        if run_.global_step == self._step:
            run_.save_checkpoint(self._path)


def _save_and_resume(path: str, whole_files: bool, options: dict[str, Any], optimizer: str) -> list[Any]:
    endings = []
    for ckpt_path in (None, path):
        sparse = SparseMomentumCallback(density=0.3, **options)
        split = strategy(2, save_distributed_checkpoint=not whole_files)
        run_ = trainer(sparse, _Save(path, 6), **split)
        model = Sharded(optimizer)
        run_.fit(model, loader(), ckpt_path=ckpt_path)
        endings.append({"state": sparse.state_dict(), "weights": [*map(whole, model.parameters())]})
    return endings


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("whole_files", "options", "optimizer"),
    [
        (True, {"growth": "random"}, "momentum"),
        (False, {"growth": "random"}, "momentum"),
        (True, {}, "adam"),
        # Lightning 2.6 can't load an optimizer without a state from one file.
        (False, {"growth": "gradient"}, "sgd"),
        (False, {"growth": "momentum"}, "sgd"),
    ],
    ids=str,
)
def test_a_run_with_split_weights_resumes_exactly(
    tmp_path: Path, whole_files: bool, options: dict[str, Any], optimizer: str
) -> None:
    # Saved at the end of an epoch, before its update.
    for endings in run(_save_and_resume, 2, tmp_path, str(tmp_path / "saved"), whole_files, options, optimizer):
        assert not isinstance(endings, str), endings
        assert differences(*endings) == []


def _on_a_mesh(work: Callable[[Any], Any]) -> Any:
    torch.distributed.init_process_group("gloo")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    result = work(mesh)
    torch.distributed.destroy_process_group()
    return result


def _state_travels(mesh: Any) -> list[Any]:
    """Save from a split network and load into a whole one, and vice versa."""
    plain, split = nn.Linear(11, 7), nn.Linear(11, 7)
    split.load_state_dict(plain.state_dict())
    torch.distributed.broadcast(split.weight.data, 0)
    fsdp.fully_shard(split, mesh=mesh)
    first = SparseNetwork(split, 0.3, seed=1)
    second = SparseNetwork(plain, 0.3, seed=2, state=first.state_dict())
    third = SparseNetwork(split, 0.3, seed=3, state=SparseNetwork(nn.Linear(11, 7), 0.3, seed=4).state_dict())
    fourth = SparseNetwork(nn.Linear(11, 7), 0.3, seed=4)
    return [first.masks, second.masks, third.masks, fourth.masks, whole(split.weight), fourth.masks]


def test_a_state_can_be_loaded_whether_weights_are_split_or_not(tmp_path: Path) -> None:
    for first, second, third, fourth, weight, _ in run(_on_a_mesh, 2, tmp_path, _state_travels):
        assert differences(first, second) == []
        assert differences(third, fourth) == []
        assert differences(first, third)
        assert not weight[~third["weight"]].any()


def _split_by_rows_twice(mesh: Any) -> str:
    placements = torch.distributed.tensor.placement_types
    weight = torch.distributed.tensor.DTensor.from_local(
        torch.ones(4, 3), mesh, [placements._StridedShard(0, split_factor=2)]
    )
    model = nn.Linear(3, 8)
    model.weight = nn.Parameter(weight)
    try:
        SparseNetwork(model, 0.5)
    except ValueError as error:
        return str(error)
    return "no error"


def test_a_split_that_is_not_in_blocks_is_refused(tmp_path: Path) -> None:
    for message in run(_on_a_mesh, 2, tmp_path, _split_by_rows_twice):
        assert message.startswith("Expected parameters that are sharded in blocks or replicated")
        assert "Cure: " in message
