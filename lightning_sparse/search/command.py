"""`lightning-sparse search`: from a search to its best networks, what they are compared with, and a page."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout
from rich.console import Console
from rich.markdown import Markdown

from lightning_sparse._compat import LightningDataModule, LightningModule
from lightning_sparse.data.locking import exclusive
from lightning_sparse.experiments.engine.engines import Engine
from lightning_sparse.experiments.engine.finished import Finished, finished
from lightning_sparse.experiments.engine.options import open_engine
from lightning_sparse.experiments.engine.signals import ending_signals_raise
from lightning_sparse.experiments.runner import FailedRunsError, run_missing
from lightning_sparse.search.controls import RANDOM, final_architectures, final_trainings
from lightning_sparse.search.density_search import DensitySearch, SamplerName
from lightning_sparse.search.output import write_page, write_texts
from lightning_sparse.search.results import SearchResults, earlier_choices, read_finals
from lightning_sparse.search.spaces import Space
from lightning_sparse.search.template import Template, make_data, make_module, make_network, read_template
from lightning_sparse.search.trainings import Architecture, SearchTraining
from lightning_sparse.search.trials import MutationSampler, RandomSampler, Sampler
from lightning_sparse.search.tried import Trials, known_genotypes
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError

# With this number of failures before the first success, something is wrong with all of them.
_MOST_FAILURES = 3


def search(
    search: str,
    data: Path = Path("data"),
    results: Path = Path("search"),
    jobs: int = 1,
    storage: str | None = None,
    final: bool = True,
    **engine_options: Any,
) -> None:
    """Search for the density of each layer, train the best network and its controls with fresh seeds, and test them.

    Tables, pictures and all trials are written to `<results>/<search>/search.md`, `search.html` and `trials.csv`. What
    has been trained is never trained twice: the same command continues where it was interrupted.

    Args:
        search: Name of a shipped search, or a YAML file with the options of `DensitySearch`.
        data: Root folder of the data sets; an `.npz` file with the data set's name in it is used.
        results: Folder of the results.
        jobs: Number of trainings at the same time on this machine.
        storage: URL of the database of the samplers "tpe" and "cma_es", such as "postgresql://...". Default: a file of
            SQLite in the folder of the search, which must not be on a network's file system.
        final: Whether to train and test final networks, after which the test data have been seen.
        **engine_options: Options of the engine that makes the trainings, see
            `lightning_sparse.experiments.engine.options.open_engine`.

    Raises:
        ValueError: If an option is outside its range.
        FileNotFoundError: If data are missing.
        RuntimeError: If another process is at the same search, or trainings fail.
    """
    chosen = DensitySearch.read(search)
    data, results = data.expanduser(), results.expanduser()
    folder, console = results / chosen.name, Console()
    with open_engine(jobs=jobs, **engine_options) as engine, _alone(folder):
        under_way = _prepare(chosen, folder, storage)
        _check_module(chosen, tests=final)
        _check_data(make_data(chosen.protocol, data, chosen.seed))
        console.print(under_way.introduction, markup=False)
        try:
            failed = [
                run
                for trials in (under_way.trials, under_way.random)
                if trials is not None
                for run in _try(trials, engine, data, results, console)
            ]
            if final:
                run_missing(list(final_trainings(chosen, under_way.architectures)), data, results, engine, console)
            if failed:
                raise _failure(failed, results)
        finally:
            found = under_way.results(results)
            console.print(Markdown(write_texts(found, folder)))
            write_page(found, folder)
            console.print(f"wrote search.md, search.html and trials.csv in {folder}", markup=False)


def _check_module(search: DensitySearch, *, tests: bool) -> None:
    """Raise a ValueError if the module can't be made or evaluated, before it is trained for hours."""
    module = make_module(search.protocol)
    if search.optimizer is not None:
        _check_optimizer(module)
    for step in ("validation_step", *(["test_step"] if tests else [])):
        if getattr(type(module), step).__qualname__ == f"LightningModule.{step}":  # as Lightning has it
            raise InvalidValueError(
                expected=f"a {step} of {search.model} that logs {search.metric}",
                got="none",
                cure="define it" if step == "validation_step" else "define it, or --final false",
            )
    if "same_capacity" in search.controls:
        make_network(search.protocol, float(search.model_options.get(search.width or "", 1.0)))


def _check_optimizer(module: LightningModule) -> None:
    try:
        module.configure_optimizers()
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            expected="an optimizer and a learning rate schedule that can be made",
            got=str(error),
            cure="check init_args of optimizer and lr_scheduler; in YAML 1.0e-4, as 1e-4 is text",
        ) from error


def _check_data(datamodule: LightningDataModule) -> None:
    """Raise a ValueError if there are no validation data, by which trials are compared."""
    datamodule.prepare_data()
    datamodule.setup("fit")
    if getattr(datamodule, "test_folder", "") is None:
        raise InvalidValueError(
            expected="test data that are other images than the validation data, which choose the network",
            got="test_folder=None, by which both are the same",
            cure="init_args: {test_folder: NAME}",
        )
    batches = datamodule.val_dataloader()
    if not batches or (hasattr(type(batches), "__len__") and not _length(batches)):
        raise InvalidValueError(
            expected="validation data, by which trials are compared",
            got="none",
            cure="init_args: {val_fraction: 0.1}, for the data modules of this package",
        )


def _length(batches: Any) -> int:
    try:
        return len(batches)
    except TypeError:  # batches of a stream
        return 1


class _alone:  # noqa: N801  # reads like the function that it stands for
    """Holds the lock of a search, so that one process at a time chooses its trials."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, exclusive(folder / "lock", timeout=0)

    def __enter__(self) -> None:
        try:
            self._lock.__enter__()
        except Timeout as error:
            raise InvalidStateError(
                expected=f"one process that searches in {self._folder}",
                got="another one that does",
                cure="wait for it, or end it first",
            ) from error

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)


@dataclass(frozen=True)
class _UnderWay:
    """A search with its trials."""

    search: DensitySearch
    template: Template
    sampler: SamplerName
    trials: Trials
    random: Trials | None

    @property
    def introduction(self) -> str:
        """Sentence about what is searched and how."""
        of_choice = "" if self.search.sampler else ", the default for this number of choices"
        lengths = ", ".join(map(str, self.search.halving.lengths))
        return (
            f"{self.search.name}: {self.search.trials} trials of {self.trials.space.description}, chosen by "
            f"{self.sampler}{of_choice}; compared after {lengths} epochs"
        )

    @property
    def architectures(self) -> dict[str, Architecture]:
        """The best network and its controls; none before a trial has ended."""
        best, best_of_random = self.trials.best, None if self.random is None else self.random.best
        return {} if best is None else final_architectures(self.search, self.template, best, best_of_random)

    def results(self, folder: Path) -> SearchResults:
        """Return what there is so far."""
        architectures = self.architectures
        finals, earlier = (
            read_finals(self.search, architectures, folder),
            earlier_choices(self.search, architectures, folder),
        )
        return SearchResults(self.search, self.template, self.sampler, self.trials, self.random, finals, earlier)


def _prepare(search: DensitySearch, folder: Path, storage: str | None) -> _UnderWay:
    template = read_template(search.protocol)
    space = search.choose_space(template)
    name = search.sampler_name(space)
    sampler = _sampler(name, search, space, folder, storage)
    first = [] if name == "random" else known_genotypes(space, template)
    trials = Trials(search, template, space, sampler, folder, "trials", first)
    by_chance = None
    if RANDOM in search.controls and name != "random":
        # With the seed of the search, its trials would be the first ones of some samplers, which are random, too.
        by_chance = Trials(search, template, space, RandomSampler(space, search.seed + 1), folder, "random")
    return _UnderWay(search, template, name, trials, by_chance)


def _sampler(name: SamplerName, search: DensitySearch, space: Space, folder: Path, storage: str | None) -> Sampler:
    if storage is not None and name not in ("tpe", "cma_es"):
        raise InvalidValueError(
            expected="the sampler tpe or cma_es, for a database", got=name, cure="leave storage out, or set the sampler"
        )
    if name == "random":
        return RandomSampler(space, search.seed)
    if name == "mutation":
        return MutationSampler(space, search.seed)
    from lightning_sparse.search.optuna_sampler import OptunaSampler

    folder.mkdir(parents=True, exist_ok=True)
    if storage is None:
        return OptunaSampler(space, name, search.seed, f"sqlite:///{(folder / 'optuna.db').absolute()}", search.name)
    # Searches of the same name in other folders have studies of their own in a database that they share.
    own = hashlib.blake2b(str(folder.absolute()).encode(), digest_size=8).hexdigest()
    return OptunaSampler(space, name, search.seed, storage, f"{search.name} {own}")


def _try(trials: Trials, engine: Engine, data: Path, results: Path, console: Console) -> list[Finished[SearchTraining]]:
    """Make the trials of a search that have not been made yet, and return those that failed.

    Raises:
        RuntimeError: If there is no network to choose.
    """
    failed: list[Finished[SearchTraining]] = []
    with ending_signals_raise(), closing(finished(trials, engine, data, results)) as runs:
        for run in runs:
            trials.ended(run)
            console.print(_line(run), markup=False)
            failed += [run] if run.failure else []
            if len(failed) >= _MOST_FAILURES and not trials.candidates:
                break
    if not trials.candidates:
        if failed:
            raise _failure(failed, results)
        raise InvalidStateError(
            expected="trials whose weights stay finite",
            got="none: all have diverged",
            cure="a lower learning rate, and another name for the search",
        )
    trials.remove_checkpoints()
    return failed


def _failure(failed: Sequence[Finished[SearchTraining]], results: Path) -> FailedRunsError:
    log = results / failed[0].training.path / "log.txt"
    kept = f"see {log}, and start again" if log.exists() else "start again"
    return FailedRunsError(
        expected="the results of all trials",
        got=f"errors in {'; '.join(run.training.name for run in failed)}. The first ends with: "
        f"{failed[0].failure.splitlines()[-1]}",
        cure=f"{kept}: finished ones are kept, and the others are tried again",
    )


def _line(run: Finished[SearchTraining]) -> str:
    if run.failure:
        return f"{run.training.name}: failed"
    result = run.result
    reached = "diverged" if result["diverged"] else f"{100 * result['value']:.2f} %"
    return f"{run.training.name}: {reached}, {sum(result['active'].values()):,} active weights"
