"""`lightning-sparse reproduce`: from the name of a table to the table."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markdown import Markdown

from lightning_sparse.experiments.datasets import prepare
from lightning_sparse.experiments.engine.options import open_engine
from lightning_sparse.experiments.results import is_finished
from lightning_sparse.experiments.runner import run_missing
from lightning_sparse.experiments.setting import SCALES, Experiment, Scale, Setting
from lightning_sparse.models.classifier_arguments import CompileMode
from lightning_sparse.reproduction import report
from lightning_sparse.reproduction.drawing import picture
from lightning_sparse.reproduction.measured import MeasuredCells
from lightning_sparse.reproduction.studies import STUDIES
from lightning_sparse.reproduction.study import Study
from lightning_sparse.validation.errors import InvalidValueError


def reproduce(
    study: Literal[
        "table1",
        "table2",
        "table2_as_coded",
        "table3",
        "table5",
        "figure2",
        "compression",
        "sensitivity",
        "regrowth",
    ],
    seeds: int | None = None,
    rows: str | None = None,
    jobs: int = 1,
    scale: Literal["full", "small"] = "full",
    data: Path = Path("data"),
    results: Path = Path("reproduction"),
    download: bool = True,
    trainer: dict[str, Any] | None = None,
    compile_mode: CompileMode | None = None,
    **engine_options: Any,
) -> None:
    """Make the missing runs of a table or figure of the paper, and print and write it.

    A finished run is one small JSON file and is never repeated; an interrupted run resumes from its last checkpoint.
    The table is written to `<results>/<scale>/<study>.md`, `.csv` and `.png`.

    Args:
        study: Table or figure of Dettmers & Zettlemoyer (2019), or an addition from their result files: "sensitivity",
            and "compression", which is Table 1 at each method's number of weights. "table2_as_coded" and "regrowth"
            show effects of their code that their text doesn't mention.
        seeds: Number of seeds of each setting, starting at 0. Default: 10 for table1, table2 and table2_as_coded, as
            the paper has 10 to 12 runs of most; to save time, 5 for table5, 3 for figure2, compression, sensitivity
            and regrowth, 1 for table3. 1 at small scale. 0 only writes the table.
        rows: Patterns of the names of settings to run, separated by commas: "mnist_lenet300*,mnist_lenet5_5".
        jobs: Number of runs at the same time on this machine. They take turns at the GPUs (those of
            CUDA_VISIBLE_DEVICES if it is set) and share the machine's cores evenly, unless OMP_NUM_THREADS is set. On a
            cluster there are as many as its workers have threads.
        scale: "full" is the paper's protocol, "small" a few batches of smaller networks to see that everything works.
        data: Root folder of the data sets; ImageNet's `train` and `val` are expected in `<data>/imagenet`.
        results: Folder of the results.
        download: Whether to download missing data sets.
        trainer: Options of the Trainer that differ from the paper's protocol, each as
            `--trainer.precision bf16-mixed`. Their runs and tables have a folder of their own, in this case
            `<results>/full+precision=bf16-mixed`. With several devices, each gets its part of the protocol's batch.
        compile_mode: Mode of `torch.compile` for the networks, such as "default". Results have a folder of their own,
            since rounding and dropout's random numbers differ.
        **engine_options: Options of the engine that makes the runs, see
            `lightning_sparse.experiments.engine.options.open_engine`.

    Raises:
        ValueError: If an option is outside its range.
        FileNotFoundError: If data are missing and `download` is False.
        RuntimeError: If data can't be downloaded, or runs fail.
    """
    console = Console()
    _check_seeds(seeds)
    chosen_scale = SCALES[scale].with_options(trainer or {}, compile_mode)
    data, results = data.expanduser(), results.expanduser()
    chosen = STUDIES[study]
    settings = _matching(chosen, rows)
    count = (1 if scale == "small" else chosen.seeds) if seeds is None else seeds
    # Seed by seed, so that every row has some runs before any row has all of them.
    experiments = [Experiment(setting, seed, chosen_scale) for seed in range(count) for setting in settings]
    with open_engine(jobs=jobs, devices=chosen_scale.trainer.get("devices", 1), **engine_options) as engine:
        try:
            # A finished table is shown without its data sets.
            missing = [experiment.setting for experiment in experiments if not is_finished(experiment, results)]
            prepare(list(dict.fromkeys(missing)), chosen_scale, data, download=download)
            if experiments:
                write = partial(_write_texts, study, chosen, MeasuredCells(results, chosen_scale))
                write()  # so that a damaged result file is reported before hours of runs
                run_missing(experiments, data, results, engine, console, after_each=write)
        finally:
            _write(study, chosen, chosen_scale, results, console)


def _check_seeds(seeds: int | None) -> None:
    if seeds is not None and seeds < 0:
        raise InvalidValueError(
            expected="a number of seeds >= 0",
            got=seeds,
            cure="10, as the paper has 10 to 12 runs",
        )


def _matching(study: Study, rows: str | None) -> list[Setting]:
    settings = study.settings()
    if rows is None:
        return settings
    patterns = [pattern.strip() for pattern in rows.split(",")]
    names = [setting.name for setting in settings]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InvalidValueError(
                expected=f"rows among {', '.join(names)}",
                got=repr(pattern),
                cure="one of these names, or a pattern such as 'mnist_lenet300*'",
            )
    return [setting for setting in settings if any(fnmatchcase(setting.name, pattern) for pattern in patterns)]


def _write(name: str, study: Study, scale: Scale, results: Path, console: Console) -> None:
    measured = MeasuredCells(results, scale)
    console.print(Markdown(_write_texts(name, study, measured)))
    picture(study, measured).savefig(measured.folder / f"{name}.png", dpi=110)
    console.print(f"wrote {measured.folder / name}.md, .csv and .png")


def _write_texts(name: str, study: Study, measured: MeasuredCells) -> str:
    """Write the table of all finished runs, and return it as Markdown."""
    measured.folder.mkdir(parents=True, exist_ok=True)
    text = report.markdown(study, measured)
    (measured.folder / f"{name}.md").write_text(text)
    (measured.folder / f"{name}.csv").write_text(report.as_csv(study, measured))
    return text
