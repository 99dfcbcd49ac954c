"""Sparse training by any recipe, in any Lightning Trainer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from inspect import Signature
from typing import Any, ClassVar

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.callbacks.cadence import counted_per_step
from lightning_sparse.callbacks.probing.compatibility import check_strategy
from lightning_sparse.callbacks.probing.logging import warn_of_old_names
from lightning_sparse.callbacks.probing.rollback import Rollback
from lightning_sparse.callbacks.sparse_training.averages import averages_of, mask_averages, warn_of_unbegun
from lightning_sparse.callbacks.sparse_training.compatibility import (
    check_agreement,
    check_alone,
    check_shardable,
    restores_after_setup,
)
from lightning_sparse.callbacks.sparse_training.method_calls import chosen_method, start_method
from lightning_sparse.callbacks.sparse_training.network_options import SET_AT_START, check_network_options
from lightning_sparse.callbacks.sparse_training.optimizers import attach_optimizers, check_stepped
from lightning_sparse.callbacks.sparse_training.planned_updates import plan_updates
from lightning_sparse.callbacks.sparse_training.reporting import warn_of_unreached
from lightning_sparse.callbacks.sparse_training.starting_masks import MasksAtStart, starting_network, weights_at_stake
from lightning_sparse.callbacks.sparse_training.summary import print_summary
from lightning_sparse.callbacks.sparse_training.updating import UpdatingCallback
from lightning_sparse.methods import Method
from lightning_sparse.methods.counters import Counters
from lightning_sparse.methods.density_plan import ScheduledDensity
from lightning_sparse.methods.rules import Rules
from lightning_sparse.methods.timetable import Cadence, Position, Timetable
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.changes.layer_groups import Recipes
from lightning_sparse.network.known_masks.saved_masks import MaskSource, check_mask_source
from lightning_sparse.network.seeding import check_seed
from lightning_sparse.topology.schedule import PruneRate
from lightning_sparse.validation.options import forwarded_signature

# Options that a method leaves as they are, so that they say nothing beside one.
_OF_RECIPES = frozenset({"recipe", "prune_rate", "schedule"})


class SparseTrainingCallback(UpdatingCallback):
    """Train sparsely from the first step: masks at the start of fit, topology updates between epochs or steps.

    An update belongs to the boundary of an epoch (or to a number of optimizer steps) and is carried out at the first
    training batch after it. So the weights that were validated are those that a checkpoint saves, the last boundary
    has no update, and a run resumes exactly from any checkpoint. Masks and counters are in the callback's state.
    Fitting the same module again with the same callback, or another one that holds the same parameters, continues with
    its masks; a module with other parameters gets new ones.

    A checkpoint that is resumed or evaluated with this callback is refused if its file was damaged. Files of others may
    hold code: PyTorch 2.6 and later runs none unless told to, older ones and Lightning on checkpoints at http
    addresses do. Load such files with `fit(..., weights_only=True)`, which the checkpoints of this callback allow.

    Args:
        recipe: Rules of an update: a name ("sparse_momentum", "set", "set_original", "rigl", "magnitude_pruning",
            "static"), the import path of a `Recipe`, or a `Recipe`; or a mapping of layer patterns to the recipe of
            each group, where layers that match none stay as they are.
        density: Fraction in (0, 1] of the maskable weights that stay active; or a `DensitySchedule`, which changes it;
            or a mapping of layer patterns to the density or schedule of each, of which the first match counts. Groups
            with a schedule keep their weights to themselves. Default: 0.05.
        prune_rate: Fraction in [0, 1] of each layer's active weights that the first update prunes.
        schedule: Decay of the prune rate: "cosine" (to zero at the last update), "linear", "constant", the import
            path of a function, or a function of progress in [0, 1] that returns a factor in [0, 1].
        every_n_epochs: Update period in epochs; 1 if neither period is set.
        every_n_steps: Update period in optimizer steps, instead.
        method: Method to train by, instead of a recipe: a name ("snip", "rigl_original", "deep_rewiring",
            "top_kast", "l0_regularization"), the import path of a `Method`, or a `Method`.
        masks_from: Masks to take over, with their density, instead of new ones: the path of a checkpoint of a run with
            one of this package's callbacks, a `SparseNetwork`, or masks by parameter name. Weights outside become zero;
            load the module's weights before. A run that is resumed keeps its own masks.
        seed: Seed for random masks and growth. Default: the seed of PyTorch (`seed_everything`).
        old_metric_names: Whether to log densities and shares of layers as `sparsity/density/<layer>` and
            `sparsity/share/<layer>`, for one more version.
        options: Options of `SparseNetwork`: `sparsity`, `distribution`, `include`, `exclude`, `dense`, `min_active`,
            `initial_masks`.

    Attributes:
        network: The `SparseNetwork`, from the start of fit on.
        history: One `UpdateRecord` per topology update.

    Raises:
        ValueError: If an argument is out of range or unknown.
    """

    __signature__: ClassVar[Signature]
    _options_in = ("_network_options", "_cadence")

    def __init__(
        self,
        recipe: Recipes = "sparse_momentum",
        density: ScheduledDensity | None = None,
        prune_rate: float = 0.5,
        schedule: str | Callable[[float], float] = "cosine",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        *,
        method: str | Method | None = None,
        masks_from: MaskSource | None = None,
        seed: int | None = None,
        old_metric_names: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self._method = chosen_method(method, recipe, density, prune_rate, schedule)
        self._rules = Rules(recipe if self._method is None else "static", density)
        self._recipe, self._density = self._rules.recipe, density
        self._signals = self._rules.signals if self._method is None else self._method.signals
        self._holds_gradients = "gradient" in self._signals
        self._prune_rate = PruneRate(prune_rate, schedule)
        self._cadence = Cadence.with_default(every_n_epochs, every_n_steps)
        self._counts_epochs = self._cadence.counts_epochs
        self._timetable = Timetable(self._cadence, self._prune_rate, self._rules.densities, self._rules.moves)
        self._seed, self._old_metric_names = check_seed(seed), warn_of_old_names(old_metric_names)
        if masks_from is not None:
            check_mask_source(masks_from)
        self._masks_from = masks_from
        options = check_network_options(
            type(self).__name__, self._rules.density, options, takes_masks_over=masks_from is not None
        )
        self._target = options["density"]
        if self._method is not None and self._target is not None:
            options["density"] = self._method.starting_density(self._target)
        self._network_options = options
        self._reset()

    def __init_subclass__(cls, sets: Collection[str] = (), **options: Any) -> None:
        """Show the forwarded options in the signature of a subclass.

        Args:
            sets: Names of the options that the subclass sets itself.
            options: Arguments of other base classes.
        """
        super().__init_subclass__(**options)
        cls.__signature__ = forwarded_signature(cls.__init__, cls.__base__ or cls, sets=sets)

    def _shown_options(self) -> dict[str, Any]:
        shown = super()._shown_options()
        return shown if self._method is None else {name: shown[name] for name in shown if name not in _OF_RECIPES}

    def _reset(self) -> None:
        self._reset_counters()
        self._max_epochs: int | None = None
        self._has_logged = False
        # Number of epochs or steps at which the next update is due, and the position of the last one, from which that
        # was computed; None: to be computed.
        self._boundary: int = 0
        self._boundary_after: Position | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the counters of an earlier fit.

        Raises:
            MisconfigurationException: If the strategy can't keep an exact number of weights, or another callback
                masks weights too.
        """
        self._is_fitting = stage == "fit"
        if stage == "fit":
            check_strategy(trainer)
            check_alone(trainer, self, SparseTrainingCallback)
            self._undo = Rollback(self)
            self._reset()
            self._begin_fit(trainer, pl_module)
            self._max_epochs = trainer.max_epochs  # weight averaging adds an epoch of its own later

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bind masks to the module and its optimizers.

        Raises:
            ValueError: If no weight can be masked, the density is out of reach, no optimizer steps a masked weight,
                or the checkpoint to resume from has no masks, or masks of another model or density.
            MisconfigurationException: If weights are split over processes and a rule can't work on parts of them.
        """
        if not restores_after_setup(trainer):
            self._start(trainer, pl_module)

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_resumable(trainer)
        if self._undo is not None:
            choice = (self._network_options["include"], self._network_options["exclude"])
            self._undo.keep(weights_at_stake(pl_module, *choice, takes_masks_over=self._masks_from is not None))
        saved = self._restored
        # The command line follows the options through this call.
        self._network = starting_network(
            trainer,
            pl_module,
            MasksAtStart(self._restored, self._network or self._earlier, self._masks_from),
            self._seed,
            **self._network_options,
        )
        if self._restored is not None:
            self._restore_counters(self._restored)
        else:
            steps = trainer.global_step // counted_per_step(trainer)
            self._counters = Counters.starting(trainer.current_epoch, steps, self._network.steps)
        self._logged = len(self._counters.history)
        check_shardable(self._network, self._rules)
        self._calls = start_method(
            self._method, self._network, self._target, trainer, self._calls, saved, self._record_of_method
        )
        attach_optimizers(self._network, trainer, self._signals)
        if self._calls is not None:
            self._calls.attach(trainer)
        averages = averages_of(trainer)
        self._has_averages = bool(averages)
        mask_averages(averages, self._network)
        self._has_started, self._earlier = True, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan the updates of the run, and print what is masked and planned.

        Raises:
            ValueError: If the prune rate is to decay over a run without a known end, or a weight is not finite.
            RuntimeError: If processes start from different masks or weights.
        """
        self._start_late(trainer, pl_module)
        if self._network is None:
            return
        planned = plan_updates(trainer, self._max_epochs, self._timetable, self._counters)
        if self._calls is not None:
            self._calls.measure_run(trainer, self._max_epochs)
            planned = [f"Method: {self._method!r}."]
        if trainer.world_size > 1:
            check_agreement(trainer, self._network, "at the start of training")
        self._network.check_finite()
        print_summary(trainer, self._network, planned)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mask the final weights: other callbacks may have changed them since the last step.

        Raises:
            ValueError: If nothing has stepped a masked weight.
        """
        if self._calls is not None and self._network is not None:
            self._calls.finish()
            self._follow_method(trainer, self._network, ends=True)
        self._enforce()
        if self._has_averages:
            warn_of_unbegun(trainer, averages_of(trainer))
        if self._network is None or self._undo is not None:  # no batch was trained on
            return
        if self._network.steps - self._counters.step_offset == self._counters.first[1]:
            check_stepped(self._network, trainer)
        calls, rules = self._calls, self._rules
        warn_of_unreached(trainer, rules.unreached(self._network) if calls is None else calls.unreached())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach from the optimizers; masks and history stay, and after a fit that trained nothing those before it."""
        if stage == "fit" and self._undo is not None and self._is_resumed and trainer.fit_loop.done:
            self._finish_late()
        self._release()
        self._leave_fit(failed=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Detach from the optimizers, as no teardown follows an exception; before the first batch, undo the fit."""
        self._is_fitting |= trainer.state.fn == "fit"  # it may have failed before our setup
        if self._undo is None:
            with suppress(Exception):  # of a device that failed; a step may have been interrupted before it was masked
                self._enforce()
        self._release()
        self._leave_fit(failed=True)


SparseTrainingCallback.__signature__ = forwarded_signature(
    SparseTrainingCallback.__init__, SparseNetwork, sets=SET_AT_START
)
