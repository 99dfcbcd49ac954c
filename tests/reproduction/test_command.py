"""What the command asks for: only data that are needed, folders at home, and other options kept apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_results import finish

from lightning_sparse.cli import main
from lightning_sparse.experiments.setting import FULL, SCALES, SMALL, Experiment, Scale, Setting
from lightning_sparse.reproduction import command, reproduce

DENSE, FIVE = Setting("mnist_lenet300_dense"), Setting("mnist_lenet300_5")
ROWS = "mnist_lenet300_dense,mnist_lenet300_5"


class Asked:
    """Notes what the command would prepare and run."""

    def __init__(self) -> None:
        self.prepared: list[Setting] = []
        self.run: list[Experiment] = []
        self.folders: list[Path] = []
        self.finished: list[Experiment] = []

    def prepare(self, settings: list[Setting], scale: Any, data: Path, *, download: bool) -> None:
        self.prepared += settings
        self.folders.append(data)

    def run_missing(
        self, experiments: list[Experiment], data: Path, results: Path, engine: Any, console: Any, after_each: Any
    ) -> None:
        self.run += experiments
        self.folders += [data, results]
        for experiment in self.finished:
            finish(results, experiment.setting, experiment.seed, 1.5)
            after_each()
            table = (results / "full" / "table1.md").read_text()
            assert f"1.50 ({experiment.seed + 1})" in table.replace(" +- 0.000", "")
            assert (results / "full" / "table1.csv").exists()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    noted = Asked()
    monkeypatch.setattr(command, "prepare", noted.prepare)
    monkeypatch.setattr(command, "run_missing", noted.run_missing)
    return noted


def test_a_finished_table_is_shown_without_its_data(tmp_path: Path) -> None:
    for setting in (DENSE, FIVE):
        finish(tmp_path / "results", setting, 0, 1.5)
    main(["reproduce", "table1", "--rows", ROWS, "--seeds=1", f"--results={tmp_path}/results", f"--data={tmp_path}/no"])
    assert (tmp_path / "results" / "full" / "table1.md").read_text().count("1.50 (1)") == 2
    assert not (tmp_path / "no").exists()


def test_only_data_of_unfinished_runs_are_prepared(tmp_path: Path, asked: Asked) -> None:
    finish(tmp_path, DENSE, 0, 1.5)
    reproduce("table1", seeds=1, rows=ROWS, results=tmp_path)
    assert asked.prepared == [FIVE]
    assert [experiment.setting for experiment in asked.run] == [DENSE, FIVE]


def test_a_damaged_result_of_any_row_is_known_before_anything_is_run(tmp_path: Path, asked: Asked) -> None:
    finish(tmp_path, DENSE, 0, 1.5)
    Experiment(DENSE, 0).result_file(tmp_path).write_text("{")
    with pytest.raises(ValueError, match="Expected the result of a run"):
        reproduce("table1", seeds=1, rows="mnist_lenet300_5", results=tmp_path)
    assert asked.run == []


def test_a_setting_is_prepared_once_for_all_its_seeds(tmp_path: Path, asked: Asked) -> None:
    finish(tmp_path, DENSE, 0, 1.5)
    reproduce("table1", seeds=3, rows=ROWS, results=tmp_path)
    assert asked.prepared == [FIVE, DENSE]
    assert len(asked.run) == 6


def test_folders_at_home_are_found(tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    main(["reproduce", "table1", "--rows", ROWS, "--seeds=1", "--data=~/d", "--results=~/r"])
    assert asked.folders == [tmp_path / "d", tmp_path / "d", tmp_path / "r"]
    assert (tmp_path / "r" / "full" / "table1.md").exists()
    assert not (tmp_path / "~").exists()


def test_other_options_of_the_trainer_make_a_table_of_their_own(
    tmp_path: Path, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path, FIVE, 0, 1.5)
    options = ["--trainer.precision", "bf16-mixed", "--trainer.devices=2"]
    main(["reproduce", "table1", "--rows", "mnist_lenet300_5", "--seeds=1", f"--results={tmp_path}", *options])
    (experiment,) = asked.run
    assert experiment.scale.trainer == {"precision": "bf16-mixed", "devices": 2}
    assert experiment.arguments()[-4:-2] == ["--trainer.precision=bf16-mixed", "--trainer.devices=2"]
    folder = tmp_path / "full+devices=2+precision=bf16-mixed"
    assert experiment.result_file(tmp_path) == folder / "mnist_lenet300_5" / "seed0.json"
    table = (folder / "table1.md").read_text()
    assert "1.50" not in table
    assert "Not the paper's protocol: run with precision=bf16-mixed, devices=2." in table
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mnist_lenet300_5"]


@pytest.mark.parametrize(("scale", "count"), [("full", 10), ("small", 1)])
def test_a_first_look_is_at_one_seed_unless_more_are_asked_for(
    scale: Any, count: int, tmp_path: Path, asked: Asked
) -> None:
    reproduce("table1", rows="mnist_lenet300_5", scale=scale, results=tmp_path)
    assert [experiment.seed for experiment in asked.run] == list(range(count))
    asked.run.clear()
    reproduce("table1", rows="mnist_lenet300_5", scale=scale, seeds=2, results=tmp_path)
    assert [experiment.seed for experiment in asked.run] == [0, 1]


def test_the_table_is_written_after_every_run(tmp_path: Path, asked: Asked) -> None:
    asked.finished = [Experiment(FIVE, seed, FULL) for seed in range(3)]
    reproduce("table1", rows="mnist_lenet300_5", seeds=3, results=tmp_path)
    assert len(asked.run) == 3


@pytest.mark.parametrize(
    ("setting", "scale", "trainer", "batch"),
    [
        (FIVE, FULL, {"devices": 2}, "50"),
        (FIVE, FULL, {"devices": "0,1,2,3"}, "25"),
        (FIVE, FULL, {"devices": [0, 1]}, "50"),
        (FIVE, SMALL, {"devices": 2}, "16"),
        (Setting("imagenet_resnet50_10"), FULL, {"devices": 4}, "64"),
        (Setting("cifar10_wrn_16_8_5"), FULL, {"devices": "4"}, "32"),
    ],
)
def test_several_devices_share_the_batch_of_the_protocol(
    setting: Setting, scale: Scale, trainer: dict[str, Any], batch: str
) -> None:
    arguments = scale.with_options(trainer).arguments(setting)
    assert arguments[arguments.index("--data.init_args.batch_size") + 1] == batch


@pytest.mark.parametrize("trainer", [{}, {"devices": 1}, {"devices": "0,"}, {"accelerator": "cpu", "devices": "auto"}])
def test_one_device_has_the_batch_of_the_configuration(trainer: dict[str, Any]) -> None:
    assert "--data.init_args.batch_size" not in FULL.with_options(trainer).arguments(FIVE)


def test_devices_that_can_not_share_a_batch_evenly_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "run_missing", None)
    with pytest.raises(ValueError, match=r"Expected devices that split the batch of 100 images .*; got 3 .*Cure"):
        reproduce("table1", rows="mnist_lenet300_5", results=tmp_path, trainer={"devices": 3})


def test_compiled_networks_have_a_table_of_their_own(tmp_path: Path, asked: Asked) -> None:
    options = ["--compile_mode", "reduce-overhead", "--trainer.precision=bf16-mixed"]
    main(["reproduce", "table1", "--rows", "mnist_lenet300_5", "--seeds=1", f"--results={tmp_path}", *options])
    (experiment,) = asked.run
    assert experiment.arguments()[-3:-2] == ["--model.init_args.compile_mode=reduce-overhead"]
    assert Experiment.from_json(experiment.to_json()) == experiment
    table = (tmp_path / "full+compile_mode=reduce-overhead+precision=bf16-mixed" / "table1.md").read_text()
    assert "Not the paper's protocol: run with precision=bf16-mixed, compile_mode=reduce-overhead." in table


def test_without_other_options_a_table_is_the_papers(tmp_path: Path, asked: Asked) -> None:
    reproduce("table1", seeds=1, rows="mnist_lenet300_5", results=tmp_path)
    assert asked.run == [Experiment(FIVE, 0, FULL)]
    assert "Not the paper's" not in (tmp_path / "full" / "table1.md").read_text()


@pytest.mark.parametrize("option", ["precison", "callbacks", "logger", "enable_checkpointing", "max_time", "num_nodes"])
def test_options_that_the_trainer_lacks_or_a_run_needs_are_refused(option: str, tmp_path: Path, asked: Asked) -> None:
    with pytest.raises(
        ValueError, match=rf"Expected an option of the Trainer .*; got '{option}'. Cure: one of .*devices"
    ):
        reproduce("table1", results=tmp_path, trainer={option: 1})
    assert asked.run == []


def test_different_options_have_different_names_that_files_can_have() -> None:
    options: list[dict[str, Any]] = [
        {},
        {"precision": "bf16-mixed"},
        {"precision": "16-mixed"},
        {"devices": 2},
        {"devices": 2, "precision": "16-mixed"},
        {"devices": [0, 1]},
        {"strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"timeout": "0:10:00"}}},
        {"profiler": "a/../b"},
        {"profiler": "a_.._b"},
    ]
    names = [FULL.with_options(each).name for each in options]
    assert len(set(names)) == len(names)
    assert names[0] == "full"
    assert all("/" not in name and len(name) < 120 for name in names)
    assert FULL.with_options({"precision": "16-mixed", "devices": 2}).name == names[4]


@pytest.mark.parametrize(
    "scale", [*SCALES.values(), SMALL.with_options({"devices": [0, 1], "precision": "bf16-mixed"})]
)
@pytest.mark.parametrize("setting", [FIVE, Setting("mnist_lenet300_5", (("growth", "random"), ("prune_rate", 0.3)))])
def test_another_process_gets_the_very_experiment(setting: Setting, scale: Any) -> None:
    experiment = Experiment(setting, 7, scale)
    assert Experiment.from_json(experiment.to_json()) == experiment
