"""One and the same callback in the Trainers of `lightning.pytorch` and of `pytorch_lightning`."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse._compat import Callback, MisconfigurationException
from lightning_sparse.testing.equality import differences

NAMES = ("lightning.pytorch", "pytorch_lightning")
pytest.importorskip("pytorch_lightning")

SILENT: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "max_epochs": 3,
}


def loader() -> DataLoader[Any]:
    inputs = torch.linspace(-1, 1, 12 * 6).view(12, 6)
    return DataLoader(TensorDataset(inputs, torch.arange(12) % 4), batch_size=4)


def module(package: ModuleType) -> Any:
    """Return a module of a package's own LightningModule."""

    class Module(package.LightningModule):  # type: ignore[misc, name-defined]  # one of two packages
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(3)
                self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    return Module()


def train(name: str, callbacks: Any, ckpt_path: str | None = None, **options: Any) -> tuple[Any, Any]:
    package = import_module(name)
    run, trained = package.Trainer(callbacks=callbacks, **{**SILENT, **options}), module(package)
    run.fit(trained, loader(), ckpt_path=ckpt_path)
    return run, trained


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    torch.manual_seed(0)
    callback = SparseMomentumCallback(density=0.3)
    train(NAMES[0], [callback])
    return callback.state_dict()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a list"])
def test_a_trainer_of_either_package_trains_alike(name: str, alone: bool, expected: dict[str, Any]) -> None:
    callback = SparseMomentumCallback(density=0.3)
    train(name, callback if alone else [callback])
    assert len(callback.history) == 2
    assert differences(callback.state_dict(), expected) == []


@pytest.mark.parametrize(("first", "second"), [NAMES, NAMES[::-1]])
def test_a_run_can_go_on_under_the_other_name(
    tmp_path: Path, first: str, second: str, expected: dict[str, Any]
) -> None:
    run, _ = train(first, SparseMomentumCallback(density=0.3), max_epochs=2)
    run.save_checkpoint(tmp_path / "after two epochs.ckpt")
    resumed = SparseMomentumCallback(density=0.3)
    train(second, resumed, ckpt_path=str(tmp_path / "after two epochs.ckpt"))
    assert [record.epoch for record in resumed.history] == [1, 2]
    # The rate is zero at an earlier end: only what comes after differs.
    assert sum(change.active for change in resumed.history[-1].layers.values()) == 24


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_of_either_package_knows_the_callback(name: str) -> None:
    package = import_module(name)
    cli = import_module(f"{name}.cli").LightningCLI
    model = type(module(package))
    arguments = [
        f"--trainer.{key}={'null' if value is None else value}" for key, value in {**SILENT, "max_epochs": 1}.items()
    ]
    built = cli(
        model,
        run=False,
        args=[
            *arguments,
            "--trainer.callbacks+=SparseMomentumCallback",
            "--trainer.callbacks.density=0.25",
            "--trainer.callbacks.growth=random",
        ],
        save_config_callback=None,
        seed_everything_default=False,
    )
    built.trainer.fit(built.model, loader())
    callback = next(each for each in built.trainer.callbacks if isinstance(each, SparseTrainingCallback))
    assert callback.network is not None
    assert callback.network.density == 0.25


@pytest.mark.parametrize("name", NAMES)
def test_callbacks_and_errors_are_those_of_either_package(name: str) -> None:
    assert issubclass(Callback, import_module(name).Callback)
    assert issubclass(
        MisconfigurationException, import_module(f"{name}.utilities.exceptions").MisconfigurationException
    )


ALONE = """
import sys
sys.modules[{hidden!r}] = None  # as if it were not installed
import torch, warnings
import {name} as L
from lightning_sparse import SparseMomentumCallback
from lightning_sparse._compat import Callback
from lightning_sparse.data import ArrayDataModule
from lightning_sparse.models import ImageClassifier, LeNet300100
from lightning_sparse.experiments.sparse_cli import SparseCLI

assert Callback is L.Callback
images, labels = torch.randint(256, (40, 8, 8), dtype=torch.uint8), torch.arange(40) % 10
data = ArrayDataModule(images, labels, images, labels, batch_size=20)
module = ImageClassifier(LeNet300100(in_features=64))
callback = SparseMomentumCallback(density=0.1)
L.Trainer(accelerator="cpu", max_epochs=2, callbacks=callback, logger=False, enable_checkpointing=False,
          enable_progress_bar=False, enable_model_summary=False).fit(module, data)
print(len(callback.history), callback.network.density == 0.1, *(
    cls.__module__ for cls in type(module).__mro__ if cls.__name__ == "LightningModule"
))
"""


@pytest.mark.parametrize(("hidden", "name"), [("pytorch_lightning", NAMES[0]), ("lightning", NAMES[1])])
def test_everything_works_where_only_one_of_the_packages_is_installed(hidden: str, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE.format(hidden=hidden, name=name)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-3:-1] == ["1", "True"]
    assert done.stdout.split()[-1].startswith(name)


def test_without_either_package_the_error_names_the_cure() -> None:
    hidden = "import sys; sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None"
    source = f"{hidden}; from lightning_sparse import SparseMomentumCallback"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=False)
    assert "Expected the package lightning or pytorch_lightning; got neither. Cure: pip install" in done.stderr
