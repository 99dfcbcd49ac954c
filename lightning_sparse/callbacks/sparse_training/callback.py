"""Sparse training by any recipe, in any Lightning Trainer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from inspect import Signature
from math import inf
from typing import Any, ClassVar

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.callbacks.cadence import Position, counted_per_step
from lightning_sparse.callbacks.probing.compatibility import check_strategy
from lightning_sparse.callbacks.probing.logging import warn_of_old_names
from lightning_sparse.callbacks.probing.rollback import Rollback
from lightning_sparse.callbacks.sparse_training.averages import averages_of, mask_averages, warn_of_unbegun
from lightning_sparse.callbacks.sparse_training.checkpointing import ResumableCallback
from lightning_sparse.callbacks.sparse_training.compatibility import (
    check_agreement,
    check_alone,
    check_shardable,
    restores_after_setup,
)
from lightning_sparse.callbacks.sparse_training.counters import Counters
from lightning_sparse.callbacks.sparse_training.network_options import SET_AT_START, check_network_options
from lightning_sparse.callbacks.sparse_training.optimizers import attach_optimizers, check_stepped
from lightning_sparse.callbacks.sparse_training.planned_updates import plan_updates, update_cadence
from lightning_sparse.callbacks.sparse_training.reporting import log_sparsity, warn_of_untrained
from lightning_sparse.callbacks.sparse_training.starting_masks import MasksAtStart, starting_network, weights_at_stake
from lightning_sparse.callbacks.sparse_training.summary import print_summary
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.budget import Density
from lightning_sparse.network.known_masks.saved_masks import MaskSource, check_mask_source
from lightning_sparse.network.seeding import check_seed
from lightning_sparse.topology.recipes import as_recipe
from lightning_sparse.topology.rewire import Recipe
from lightning_sparse.topology.schedule import PruneRate
from lightning_sparse.validation.options import forwarded_signature


class SparseTrainingCallback(ResumableCallback):
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
        recipe: Rules of an update: a name ("sparse_momentum", "set", "set_original", "rigl", "static"), the import
            path of a `Recipe`, or a `Recipe`.
        density: Fraction in (0, 1] of the maskable weights that stay active; or a mapping of layer patterns to the
            density of each, of which the first match counts. Default: 0.05.
        prune_rate: Fraction in [0, 1] of each layer's active weights that the first update prunes.
        schedule: Decay of the prune rate: "cosine" (to zero at the last update), "linear", "constant", the import
            path of a function, or a function of progress in [0, 1] that returns a factor in [0, 1].
        every_n_epochs: Update period in epochs; 1 if neither period is set.
        every_n_steps: Update period in optimizer steps, instead.
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
        recipe: str | Recipe = "sparse_momentum",
        density: Density | None = None,
        prune_rate: float = 0.5,
        schedule: str | Callable[[float], float] = "cosine",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        *,
        masks_from: MaskSource | None = None,
        seed: int | None = None,
        old_metric_names: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self._recipe = as_recipe(recipe)
        self._holds_gradients = "gradient" in self._recipe.signals
        self._prune_rate = PruneRate(prune_rate, schedule)
        self._cadence = update_cadence(every_n_epochs, every_n_steps)
        self._counts_epochs = self._cadence.counts_epochs
        self._seed, self._old_metric_names = check_seed(seed), warn_of_old_names(old_metric_names)
        if masks_from is not None:
            check_mask_source(masks_from)
        self._masks_from = masks_from
        options = check_network_options(type(self).__name__, density, options, takes_masks_over=masks_from is not None)
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

    def _reset(self) -> None:
        self._reset_counters()
        self._max_epochs: int | None = None
        self._total_updates = inf
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
        check_shardable(self._network, self._recipe)
        attach_optimizers(self._network, trainer, self._recipe.signals)
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
        prunes = self._recipe.prune is not None
        plan = plan_updates(trainer, self._max_epochs, self._cadence, self._counters, self._prune_rate, prunes)
        self._total_updates = plan.total
        if trainer.world_size > 1:
            check_agreement(trainer, self._network, "at the start of training")
        self._network.check_finite()
        print_summary(trainer, self._network, [plan.sentence()])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Carry out the topology update of a boundary that has been passed.

        Raises:
            RuntimeError: If processes have different masks or weights after it.
            ValueError: If layers to mask were added, unfrozen, replaced or removed since sparse training began.
        """
        network, counters = self._network, self._counters
        if network is None:
            return
        if counters.last is self._boundary_after and self._restored is None:
            count = trainer.current_epoch if self._counts_epochs else network.steps - counters.step_offset
            if count < self._boundary:  # nothing is due, as at most batches
                network.enforce_changes()
                return
        if not trainer.fit_loop._skip_backward:  # else: an epoch for batch statistics, without updates
            self._begin_or_update(trainer, network)

    def _begin_or_update(self, trainer: Trainer, network: SparseNetwork) -> None:
        if self._restored is not None:  # by a tuner that was started in training
            self._apply_restored(trainer)
        if self._undo is not None:
            self._begin_batch(trainer, network, self._network_options)
        network.enforce_changes()
        counters = self._counters
        now = (trainer.current_epoch, network.steps - counters.step_offset)
        count = now[0] if self._counts_epochs else now[1]
        if count >= self._cadence.next_boundary(counters.last):
            # Before a step there is nothing to decide by: a gradient scaler may skip all steps of an epoch.
            if now[1] == counters.last[1]:
                check_stepped(network, trainer)
            elif now[1] > counters.last[1]:
                self._update(trainer, network, now)  # which logs
                self._has_logged = True
        if not self._has_logged:
            log_sparsity(trainer, network, old_names=self._old_metric_names)
            self._has_logged = True
        if self._undo is None:
            self._boundary_after, self._boundary = counters.last, self._cadence.next_boundary(counters.last)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Mask weights that changed without a step that hooks see, and count such a step."""
        if self._network is not None:
            self._network.look(lambda: trainer.global_step)
        if self._undo is not None and self._kernels is not None:  # a batch was trained on
            self._kernels.look()  # which ends it
            self._undo = None

    def _update(self, trainer: Trainer, network: SparseNetwork, now: Position) -> None:
        network.check_weights()
        network.complete_update()  # one that was interrupted gets its record before this one gets its number
        history = self._counters.history
        rate = self._prune_rate.at(len(history), self._total_updates)
        averages = averages_of(trainer) if self._has_averages else []
        then = partial(mask_averages, averages, network) if averages else None
        network.rewire(self._recipe, rate, record=partial(self._counters.record, len(history), now, rate, then))
        if len(history) == 1 and (untrained := network.untrained):
            warn_of_untrained(trainer, untrained)
        if trainer.world_size > 1:
            check_agreement(trainer, network, f"after the topology update of step {now[1]}")
        log_sparsity(trainer, network, history[-1], old_names=self._old_metric_names)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mask the final weights: other callbacks may have changed them since the last step.

        Raises:
            ValueError: If nothing has stepped a masked weight.
        """
        self._enforce()
        if self._has_averages:
            warn_of_unbegun(trainer, averages_of(trainer))
        if self._network is None or self._undo is not None:  # no batch was trained on
            return
        if self._network.steps - self._counters.step_offset == self._counters.first[1]:
            check_stepped(self._network, trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach from the optimizers; masks and history stay, and after a fit that trained nothing those before it."""
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
