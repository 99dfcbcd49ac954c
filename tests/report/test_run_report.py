"""A report shows the log of a run on one self-contained page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from html import unescape
from math import inf, nan
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.optim import SGD

from lightning_sparse import GradientFlowCallback, SparseMomentumCallback
from lightning_sparse.analysis.pictures import plot_gradient_flow, plot_layer_densities, plot_layer_gradient_flow
from lightning_sparse.cli import main
from lightning_sparse.data import InMemoryLoader
from lightning_sparse.models import ImageClassifier
from lightning_sparse.report import report
from lightning_sparse.report.curve_charts import Quartiles, plot_curves, plot_quartiles
from lightning_sparse.report.run_log import Point, RunLog

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short run with everything that a report can show."""
    folder = tmp_path_factory.mktemp("logs")
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(40, 1, 2, 2, generator=generator), torch.arange(40) % 10
    loader = InMemoryLoader(images, labels, 10, shuffle=True)
    torch.manual_seed(0)
    module = ImageClassifier("mlp", model_options={"in_features": 4, "hidden": [8]})
    logger = CSVLogger(folder, name="tiny")
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=4,
        callbacks=[SparseMomentumCallback(density=0.5), GradientFlowCallback()],
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, InMemoryLoader(images, labels, 20, shuffle=False))
    figures = Path(logger.log_dir) / "figures"
    figures.mkdir()
    Image.new("RGB", (3, 2), "red").save(figures / "first layer.png")
    return folder


def write(folder: Path, rows: str, settings: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text(rows)
    if settings is not None:
        (folder / "hparams.yaml").write_text(settings)
    return folder


def text_of(page: Path) -> str:
    """Return the visible text of a page."""
    content = re.sub(r"<style>.*?</style>|<figure>.*?</figure>", " ", page.read_text(), flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", content)).split())


def test_all_sections_of_a_run_are_there_with_its_numbers(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "report.html"
    report(run, out=out)
    text, log = text_of(out), RunLog.read(run)
    for title in ("Results", "Density per layer", "Topology updates", "Gradient flow", "Pictures", "Settings"):
        assert title in text
    assert "Class specialization" not in text
    assert f"val/accuracy {log.last('val/accuracy'):.5g}" in text
    assert "all layers 50 % 50 % all trainable weights 50 % 50 %" in text
    grown = [f"{point.value:,.0f}" for point in log.columns["sparsity/grown"]]
    assert f"3 updates of {log.name} epoch step prune rate pruned grown 1 4 0.5 {grown[0]} {grown[0]}" in text
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", out.read_text())
    assert captions == [
        "accuracy over the run",
        "loss over the run",
        f"density per layer, {log.name}",
        f"redistribution, {log.name}",
        f"gradient flow, {log.name}",
        f"gradient flow per layer, {log.name}",
        f"first layer ({log.name})",
    ]


def test_a_page_needs_nothing_but_itself(run: Path, tmp_path: Path) -> None:
    report(run, out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert set(re.findall(r'(?:src|href)="(.{0,21})', page)) == {"data:image/png;base64"}
    assert "url(" not in page


def test_two_runs_are_compared_number_by_number(run: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "first", "epoch,step,val/acc\n0,1,0.5\n1,2,0.75\n", "lr: 0.1\nmodel: {depth: 3}\n")
    second = write(
        tmp_path / "second", "epoch,step,val/acc,val/loss\n0,1,0.5,2\n1,2,0.8,1\n", "lr: 0.2\nmodel: {depth: 3}\n"
    )
    report(first, second, tmp_path / "both.html")
    text = text_of(tmp_path / "both.html")
    assert "metric, last value first second difference val/acc 0.75 0.8 +0.05 val/loss - 1 -" in text
    assert "setting first second lr 0.1 0.2 all 2 settings" in text


class Rivals(LightningModule):
    """Two networks, each with an optimizer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = nn.Linear(4, 2), nn.Linear(4, 2)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for optimizer, network in zip(self.optimizers(), (self.first, self.second), strict=True):  # type: ignore[arg-type]  # a list of two
            optimizer.zero_grad()
            self.manual_backward(network(batch[0].flatten(1)).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> tuple[SGD, SGD]:
        return SGD(self.first.parameters(), lr=0.1), SGD(self.second.parameters(), lr=0.1)


def test_gradient_flow_of_several_optimizers_is_shown_of_each(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="rivals")
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[GradientFlowCallback(every_n_steps=1)],
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Rivals(), InMemoryLoader(torch.ones(4, 1, 2, 2), torch.zeros(4, dtype=torch.long), 2, shuffle=False))
    report(tmp_path, out=tmp_path / "report.html")
    text, log = text_of(tmp_path / "report.html"), RunLog.read(tmp_path)
    for index in (0, 1):
        values = [point.value for point in log.columns[f"gradient_flow/optimizer_{index}/egf_l1"]]
        assert f"optimizer_{index}/egf_l1 {sum(values) / len(values):.5g}" in text
        assert f"optimizer_{index}: flagged layers, all measurements 0" in text
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", (tmp_path / "report.html").read_text())
    assert captions == [
        f"gradient flow{kind} of optimizer_{index}, {log.name}" for index in (0, 1) for kind in ("", " per layer")
    ]


def test_gradient_flow_of_layers_is_that_of_the_largest_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def remember(steps: object, norms: dict[str, list[float]], xlabel: str) -> Figure:
        drawn.append(norms)
        return Figure()

    monkeypatch.setattr("lightning_sparse.report.sections.plot_layer_gradient_flow", remember)
    for place, orders in enumerate([("l2", "l1"), ("linf", "l10", "l2"), ("l2", "l10"), ("l1.5", "l1")]):
        names = [f"gradient_flow/named/egf_{norm}{layer}" for norm in orders for layer in ("", "/fc/l1.weight")]
        values = [order.removeprefix("l") for order in orders for _ in range(2)]
        row = f"epoch,step,{','.join(names)}\n0,1,{','.join(values)}\n"
        report(write(tmp_path / str(place), row), out=tmp_path / "report.html")
        assert f"named/egf_{orders[0]} " in text_of(tmp_path / "report.html")
    assert drawn == [{"fc/l1.weight": [order]} for order in (2, inf, 10, 1.5)]


def test_a_layer_whose_channels_are_all_dead_is_shown(tmp_path: Path) -> None:
    for prefix in ("specialization", "specialization/probe"):
        names = [f"{prefix}/a/dead", f"{prefix}/b/mean", f"{prefix}/b/dead"]
        report(write(tmp_path / "run", f"epoch,step,{','.join(names)}\n3,9,8,0.5,1\n"), out=tmp_path / "report.html")
        before = f"{prefix}/".removeprefix("specialization/")
        text = text_of(tmp_path / "report.html")
        assert f"mean over channels run {before}a - {before}b 0.5" in text
        assert f"channels that are never active channels run {before}a 8 {before}b 1" in text


@pytest.mark.parametrize("name", ["loss_$x_$", "$", "a$b$\\$", "_loss", "__", "loss {x} \\frac", "损失"])
def test_names_with_special_characters_are_drawn_literally(name: str, tmp_path: Path) -> None:
    rows = f"epoch,step,{name}loss,sparsity/density/{name},sparsity/share/{name},gradient_flow/{name}/egf_l1"
    rows += f",gradient_flow/egf_l1/{name}.weight,specialization/{name}/mean,specialization/{name}/dead\n"
    numbers = ",".join(["0.5"] * 7)
    folder = write(tmp_path / f"run {name}", f"{rows}0,1,{numbers}\n1,2,{numbers}\n")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        report(folder, out=tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("<img") == 6
    for figure in (
        plot_curves({name: [Point(0, 1, 2.0)]}, "loss"),
        plot_gradient_flow([0, 1], {name: [1.0, 2.0]}),
        plot_layer_gradient_flow([0, 1], {f"net.{name}.weight": [1.0, 2.0], "net.fc.weight": [1.0, 2.0]}),
        plot_layer_densities([0, 1], {f"net.{name}.weight": [0.5, 0.25], "net.fc.weight": [0.5, 0.25]}),
    ):
        legend = figure.axes[0].get_legend()
        assert legend is not None
        texts = [text for text in legend.get_texts() if text.get_text().strip() != "fc"]
        shown = [text._preprocess_math(text.get_text()) for text in texts]  # type: ignore[attr-defined]  # what it draws
        assert [(drawn.strip(), math) for drawn, math in shown] == [(name, False)]


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ("? !!python/tuple [1, 2]\n: 3\n", {"[1, 2]": "3"}),
        ("? {a: 1}\n: {5: x, null: y, true: [{2.5: z}]}\n", {"{'a': 1}.5": "x", "{'a': 1}.None": "y"}),
        ("a: &a {b: 1}\nc: {<<: *a, d: 2}\n", {"a.b": "1", "c.b": "1", "c.d": "2"}),
    ],
)
def test_settings_may_have_names_of_any_type(settings: str, shown: dict[str, str], tmp_path: Path) -> None:
    folder = write(tmp_path / "run", "epoch,step,loss\n0,1,0.5\n", settings)
    assert shown.items() <= RunLog.read(folder).settings.items()
    report(folder, out=tmp_path / "report.html")
    for name, value in shown.items():
        assert f"{name} {value}" in text_of(tmp_path / "report.html")


@pytest.mark.parametrize("settings", ["a: [1\nb: : 2", "a: 2020-13-45\n", "&a [*a]", "a: *unknown", "a: \x00"])
def test_settings_that_can_not_be_read_are_reported(settings: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", "epoch,step,loss\n0,1,0.5\n", settings)
    report(folder, out=tmp_path / "report.html")
    assert "loss 0.5 Settings run: hparams.yaml could not be read: " in text_of(tmp_path / "report.html")
    shutil.copyfile(folder / "hparams.yaml", folder / "config.yaml")
    (folder / "hparams.yaml").write_text("lr: 0.1\n")
    report(folder, folder, tmp_path / "both.html")
    text = text_of(tmp_path / "both.html")
    assert "run (A): config.yaml could not be read: " in text
    assert "lr 0.1 0.1" in text


def test_specialization_is_shown_layer_by_layer(tmp_path: Path) -> None:
    rows = "epoch,step,specialization/conv1/mean,specialization/conv1/q25,specialization/conv2/mean\n3,9,0.25,0.2,0.5\n"
    report(write(tmp_path / "run", rows), out=tmp_path / "report.html")
    text = text_of(tmp_path / "report.html")
    assert "Class specialization mean over channels run conv1 0.25 conv2 0.5" in text


def test_specialization_of_two_runs_is_drawn_side_by_side_with_what_is_known_of_each(tmp_path: Path) -> None:
    names = [f"specialization/conv1/{name}" for name in ("mean", "q25", "median", "q75", "dead")]
    first = write(tmp_path / "first", f"epoch,step,{','.join(names)}\n3,9,0.3,0.2,0.25,0.4,2\n")
    second = write(tmp_path / "second", "epoch,step,specialization/conv1/mean\n3,9,0.5\n")
    report(first, second, tmp_path / "both.html")
    text = text_of(tmp_path / "both.html")
    assert "mean over channels first second difference conv1 0.3 0.5 +0.2" in text
    assert "channels that are never active channels first second difference conv1 2 - -" in text
    assert (tmp_path / "both.html").read_text().count("<img") == 1
    log = {"first": {"conv1": Quartiles(0.3, 0.2, 0.25, 0.4)}, "second": {"conv2": Quartiles(0.5, nan, nan, nan)}}
    (axes,) = plot_quartiles(log, "share").axes
    bars = {bar.get_label(): bar.patches[0] for bar in axes.containers if isinstance(bar, BarContainer)}
    low, high = (bars["first"].get_y() + part * bars["first"].get_height() for part in (0, 1))
    assert (low, high) == (0.2, pytest.approx(0.4))
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.3], [0.5]]
    places = [float(line.get_xdata()[0]) for line in axes.lines]  # type: ignore[index]  # an array
    assert places == pytest.approx([-0.175, 1.175])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["conv1", "conv2"]


def test_two_runs_of_one_name_get_distinct_names(tmp_path: Path) -> None:
    folders = [write(tmp_path / part / "run", "epoch,step,loss\n0,1,0.5\n") for part in ("a", "b")]
    report(*folders, tmp_path / "both.html")
    assert "run (A) run (B)" in text_of(tmp_path / "both.html")


def test_text_from_a_run_is_shown_and_never_run(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>"
    folder = write(tmp_path / "run", f"epoch,step,{nasty}\n0,1,0.5\n", f'note: "{nasty}"\n')
    report(folder, out=tmp_path / "report.html")
    assert "<script" not in (tmp_path / "report.html").read_text()
    assert text_of(tmp_path / "report.html").count("<script>alert(1)</script>") == 2


def test_settings_with_objects_of_python_are_read_without_making_them(tmp_path: Path) -> None:
    settings = (
        "a: !!python/object/apply:os.system ['touch made']\nb: !!python/tuple [1, 2]\nc: {d: [1, {e: 2}], f: null}\n"
    )
    log = RunLog.read(write(tmp_path, "epoch,step,loss\n0,1,0.5\n", settings))
    assert log.settings == {"a": "['touch made']", "b": "[1, 2]", "c.d.0": "1", "c.d.1.e": "2"}
    assert not Path("made").exists()


def test_the_newest_run_below_a_folder_is_taken(run: Path, tmp_path: Path) -> None:
    older = write(tmp_path / "version_0", "epoch,step,loss\n0,1,1\n")
    newer = write(tmp_path / "version_1", "epoch,step,loss\n0,1,2\n")
    os.utime(older / "metrics.csv", (1, 1))
    assert RunLog.read(tmp_path).folder == newer
    assert RunLog.read(older).columns == {"loss": [Point(0, 1, 1)]}


@pytest.mark.parametrize("dot", [".", ""])
def test_copies_that_systems_keep_in_hidden_folders_and_files_are_left_out(dot: str, tmp_path: Path) -> None:
    older = write(tmp_path / "version_0", "epoch,step,loss\n0,1,1\n")
    os.utime(older / "metrics.csv", (1, 1))
    newer = write(tmp_path / f"{dot}trash" / "version_1", "epoch,step,loss\n0,1,2\n")
    for folder in (older, newer):
        (folder / "figures").mkdir()
        (folder / "figures" / f"{dot}_layers.png").write_bytes(b"AppleDouble")
    log = RunLog.read(tmp_path)
    assert (log.folder, len(log.figures)) == ((older, 0) if dot else (newer, 1))


def test_logs_that_are_all_in_a_hidden_folder_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path / ".logs" / "version_0", "epoch,step,loss\n0,1,1\n")
    assert RunLog.read(tmp_path).folder == folder


def test_numbers_that_are_not_finite_are_shown_as_they_are(tmp_path: Path) -> None:
    rows = "epoch,step,val/loss,gradient_flow/egf_l2\n0,1,1,1\n1,2,nan,inf\n"
    report(write(tmp_path / "run", rows), out=tmp_path / "report.html")
    text = text_of(tmp_path / "report.html")
    assert "val/loss nan" in text
    assert "egf_l2 1" in text  # the mean of the finite numbers


@pytest.mark.parametrize("prefix", ["layer_", ""])  # the names of today and of version 0
def test_updates_within_an_epoch_are_drawn_over_steps(prefix: str, tmp_path: Path) -> None:
    rows = f"epoch,step,sparsity/{prefix}share/a,sparsity/{prefix}density/a\n0,1,1,0.5\n0,2,1,0.5\n0,3,1,0.4\n"
    report(write(tmp_path / "run", rows), out=tmp_path / "report.html")
    assert "Density per layer" in text_of(tmp_path / "report.html")


def test_folders_without_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"with a metrics.csv; got .* Cure: log with .*CSVLogger"):
        report(tmp_path, out=tmp_path / "report.html")
    with pytest.raises(FileNotFoundError, match=r"Cure"):
        report(tmp_path / "nowhere", out=tmp_path / "report.html")
    with pytest.raises(ValueError, match=r"numbers in metrics.csv; got none. Cure"):
        report(write(tmp_path / "empty", "epoch,step\n"), out=tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_command_line_writes_a_report(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(run), "--out", str(tmp_path / "a.html")])
    assert "a.html" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"lightning-sparse: Expected the folder of a run"):
        main(["report", str(tmp_path / "nowhere")])


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_every_picture(run: Path, tmp_path: Path) -> None:
    report(run, other=run, out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    script = "<script>onload = () => document.title = [...document.images].map(i => i.naturalWidth).join()</script>"
    (tmp_path / "asked.html").write_text(page.replace("</body>", f"{script}</body>"))
    dumped = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", (tmp_path / "asked.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    (title,) = re.findall(r"<title>(.*?)</title>", dumped)
    widths = [int(width) for width in title.split(",")]
    assert len(widths) == page.count("<img") > 10
    assert min(widths) >= 3
    assert sorted(widths)[2] > 400
