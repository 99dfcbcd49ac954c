"""The command line: names of shipped experiments, subcommands, and errors that name the choices."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch._utils import ExceptionWrapper

import lightning_sparse
from lightning_sparse import configs
from lightning_sparse.cli import entry_point, main
from lightning_sparse.cli.errors import user_message
from lightning_sparse.experiments.sparse_cli import SparseCLI
from lightning_sparse.models import ImageClassifier
from lightning_sparse.validation.errors import InvalidValueError

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


@pytest.mark.parametrize("command", ["configs", "--help", "--version"])
def test_what_needs_no_pytorch_does_not_wait_for_it(command: str) -> None:
    check = f"import sys; from lightning_sparse.cli import main; main([{command!r}]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) > 1
    assert lines[-1] == "False"


def test_parts_are_there_without_an_import_of_their_own() -> None:
    parts = ["analysis", "callbacks", "data", "models", "network", "topology"]
    for part in parts:
        assert lightning_sparse.__getattr__(part).__name__ == f"lightning_sparse.{part}"
    assert set(parts) <= set(dir(lightning_sparse))


def test_the_package_has_all_its_names_and_no_others() -> None:
    for name in lightning_sparse.__all__:
        assert getattr(lightning_sparse, name).__doc__ or name == "__version__"
    assert set(lightning_sparse.__all__) <= set(dir(lightning_sparse))
    with pytest.raises(AttributeError, match="has no attribute 'SparseMomentum'"):
        _ = lightning_sparse.SparseMomentum


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


QUIET = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
DIGITS = ["fit", "--config", "digits_lenet300", "--trainer.max_epochs", "1", *QUIET]


def raising(error: BaseException) -> Any:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


@pytest.fixture
def _handler() -> Iterator[None]:
    """Put the handler of Ctrl+C back, which Lightning takes away when it has seen one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_missing_data_end_a_run_with_one_line(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data.init_args.data_dir", str(tmp_path), "--data.init_args.download", "false"]
    with pytest.raises(SystemExit) as stop:
        main([command, "--config", "mnist_lenet300_5", *data, *QUIET])
    assert str(stop.value.code).startswith("lightning-sparse: Expected the files of MNIST in ")
    assert "\n" not in str(stop.value.code)


def test_a_download_that_fails_ends_a_reproduction_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", raising(OSError("no route")))
    with pytest.raises(SystemExit, match=r"^lightning-sparse: Expected to download MNIST to .*no route\. Cure: "):
        main(["reproduce", "table1", "--rows", "mnist_lenet300_5", f"--data={tmp_path}", f"--results={tmp_path}"])


@pytest.mark.parametrize("error", [ValueError("a mistake"), FileNotFoundError("somewhere"), RuntimeError("a mistake")])
@pytest.mark.parametrize("command", [["demo"], DIGITS])
def test_other_errors_keep_their_traceback(
    command: list[str], error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageClassifier, "training_step", raising(error))
    with pytest.raises(type(error)) as caught:
        main(command)
    assert caught.value is error


@pytest.mark.usefixtures("_handler")
@pytest.mark.parametrize("command", [["demo"], DIGITS])
def test_ctrl_c_ends_the_command_without_a_traceback(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageClassifier, "training_step", raising(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 130
    assert capsys.readouterr().err.endswith("lightning-sparse: interrupted\n")


def test_another_exit_status_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry_point, "list_configs", raising(SystemExit(3)))
    with pytest.raises(SystemExit) as stop:
        main(["configs"])
    assert stop.value.code == 3


UNREADABLE = InvalidValueError(
    expected="an intact image", got="a.png, which cannot be read (cut\noff)", cure="replace the file"
)


def test_our_errors_are_known_by_their_type_wherever_they_stand_in_a_chain() -> None:
    outer = RuntimeError("a library failed")
    outer.__cause__ = UNREADABLE
    assert user_message(outer) == str(UNREADABLE)
    assert user_message(RuntimeError("a library failed")) is None


def test_our_errors_are_known_when_a_process_that_reads_data_passes_them_on() -> None:
    passed: list[str] = []
    for failure in (UNREADABLE, ValueError("a mistake")):
        try:
            raise failure
        except ValueError:
            wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
        with pytest.raises(ValueError, match="Traceback") as caught:
            wrapped.reraise()
        passed.append(str(user_message(caught.value)))
    assert passed == [str(UNREADABLE), "None"]


@pytest.mark.parametrize("text", ["", "no Cure: at all", str(UNREADABLE)])
def test_errors_of_others_are_not_ours(text: str) -> None:
    assert user_message(ValueError(text)) is None
