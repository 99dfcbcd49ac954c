"""The command line: names of shipped experiments, subcommands, and errors that name the choices."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import lightning_sparse
from lightning_sparse import configs
from lightning_sparse.cli import SparseCLI, main

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter is intended:UserWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]
NAMES = [path.stem for path in sorted(Path(lightning_sparse.__file__).parent.glob("configs/*.yaml"))]


def test_every_shipped_experiment_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(len(line.split()) > 5 for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_experiment_builds_its_objects(name: str, tmp_path: Path) -> None:
    cli = SparseCLI(["--config", name, "--trainer.logger", "false", "--trainer.accelerator", "cpu"], run=False)
    settings = yaml.safe_load(configs.find(name).read_text())
    assert cli.trainer.max_epochs == settings["trainer"]["max_epochs"]
    assert type(cli.datamodule).__name__ == settings["data"]["class_path"].rpartition(".")[2]
    sparse = [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert ("SparseMomentumCallback" in sparse) == ("dense" not in name)
    assert not list(tmp_path.iterdir())


def test_fit_by_name_trains_sparsely_and_test_reads_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config=digits_lenet300", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"])
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert list(tmp_path.rglob("config.yaml"))
    for command in ("test", "validate", "predict"):
        options = ["--config", "digits_lenet300", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
        main([command, *options, "--ckpt_path", str(checkpoint)])
    assert "test/accuracy" in capsys.readouterr().out


def test_a_file_of_the_user_goes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert configs.find("digits_lenet300").parent == Path(configs.__file__).parent
    Path("digits_lenet300").write_text("trainer: {}\n")
    assert configs.find("digits_lenet300") == Path("digits_lenet300")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments)
    text = capsys.readouterr().out
    assert all(word in text for word in ("demo", "configs", "fit", "validate", "test", "predict"))


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.strip() == lightning_sparse.__version__


def test_an_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fitt"])
    assert stop.value.code == 2
    assert "fit" in capsys.readouterr().err
