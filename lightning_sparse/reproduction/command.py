"""`lightning-sparse reproduce`: from the name of a table to the table."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markdown import Markdown

from lightning_sparse.experiments.datasets import prepare
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
) -> None:
    """Run what is missing of a table or figure of the paper, and print and write it.

    A finished run is one small JSON file and is never made again; an interrupted one goes on from its last checkpoint.
    The table goes to `<results>/<scale>/<study>.md`, `.csv` and `.png`.

    Args:
        study: Which table or figure of Dettmers & Zettlemoyer (2019), or what their result files add: a sensitivity
            analysis, and "compression", Table 1 at the weights of each method. "table2_as_coded" and "regrowth" have
            what their code does and their text doesn't say.
        seeds: How many seeds of each setting, from 0 on. Default: 10 of table1, table2 and table2_as_coded, as the
            paper has 10 to 12 runs of most; for less time, 5 of table5, 3 of figure2, compression, sensitivity and
            regrowth, 1 of table3. A single one of each at small scale. 0 only writes the table.
        rows: Run only settings whose names match one of these patterns, separated by commas:
            "mnist_lenet300*,mnist_lenet5_5".
        jobs: How many runs at once. GPUs are dealt out to them in turn, those of CUDA_VISIBLE_DEVICES if it is set;
            the machine's cores are divided evenly, unless OMP_NUM_THREADS is set.
        scale: "full" is the paper's protocol, "small" a few batches of smaller networks to see that everything works.
        data: Root folder of the data sets; ImageNet's `train` and `val` are looked for in `<data>/imagenet`.
        results: Folder of the results.
        download: Whether to download data sets that are not there.
        trainer: Other options of the Trainer than the paper's protocol has, each as
            `--trainer.precision bf16-mixed`. Their runs and tables are kept apart, here in
            `<results>/full+precision=bf16-mixed`. With several devices each gets its part of the protocol's batch.
        compile_mode: Compile the networks with this mode of `torch.compile`, such as "default". Likewise kept apart,
            since rounding is another, and so are dropout's random numbers.

    Raises:
        ValueError: If an option is outside its range.
        FileNotFoundError: If data are missing and not to be downloaded.
        RuntimeError: If they can't be downloaded, or runs fail.
    """
    console = Console()
    _check(seeds, jobs)
    way = SCALES[scale].with_options(trainer or {}, compile_mode)
    data, results = data.expanduser(), results.expanduser()
    chosen = STUDIES[study]
    settings = _matching(chosen, rows)
    count = (1 if scale == "small" else chosen.seeds) if seeds is None else seeds
    # Seed by seed, so that all rows have a few runs before any has all.
    experiments = [Experiment(setting, seed, way) for seed in range(count) for setting in settings]
    try:
        # A table that is finished is shown without its data.
        missing = [experiment.setting for experiment in experiments if not is_finished(experiment, results)]
        prepare(list(dict.fromkeys(missing)), way, data, download=download)
        if experiments:
            write = partial(_write_texts, study, chosen, MeasuredCells(results, way))
            write()  # so that a damaged result is known before hours of runs
            run_missing(experiments, data, results, jobs, console, after_each=write)
    finally:
        _write(study, chosen, way, results, console)


def _check(seeds: int | None, jobs: int) -> None:
    if seeds is not None and seeds < 0:
        raise InvalidValueError(
            expected="a number of seeds >= 0",
            got=seeds,
            cure="10, as the paper has 10 to 12 runs",
        )
    if jobs < 1:
        raise InvalidValueError(
            expected="a number of jobs >= 1",
            got=jobs,
            cure="the number of cores, at most",
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
    return [each for each in settings if any(fnmatchcase(each.name, pattern) for pattern in patterns)]


def _write(name: str, study: Study, scale: Scale, results: Path, console: Console) -> None:
    found = MeasuredCells(results, scale)
    folder = found.folder
    console.print(Markdown(_write_texts(name, study, found)))
    picture(study, found).savefig(folder / f"{name}.png", dpi=110)
    console.print(f"wrote {folder / name}.md, .csv and .png")


def _write_texts(name: str, study: Study, found: MeasuredCells) -> str:
    """Write the table as it is now, and return it as Markdown."""
    found.folder.mkdir(parents=True, exist_ok=True)
    text = report.markdown(study, found)
    (found.folder / f"{name}.md").write_text(text)
    (found.folder / f"{name}.csv").write_text(report.as_csv(study, found))
    return text
