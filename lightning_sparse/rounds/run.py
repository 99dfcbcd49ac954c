"""Several trainings of one module, each with fewer weights than the one before."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from os import PathLike
from typing import Any

from torch import nn

from lightning_sparse.network.budget import Density
from lightning_sparse.network.changes.layer_groups import Recipes
from lightning_sparse.rounds.file import RoundsFile
from lightning_sparse.rounds.plan import RoundMasks, Start, make_plan
from lightning_sparse.rounds.reinitialize import Reinitialize
from lightning_sparse.rounds.round import Round
from lightning_sparse.rounds.training import Fit, TrainingRounds
from lightning_sparse.topology.pruning import magnitude
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.validation.errors import InvalidTypeError

# The smallest weights of each layer go, as in the experiments of Frankle & Carbin 2019 with fully connected networks.
SMALLEST_OF_EACH_LAYER = Recipe(prune=magnitude)


def run_rounds(
    fit: Fit,
    module: nn.Module,
    densities: Sequence[Density] | None = None,
    rewind: int = 0,
    *,
    recipe: Recipes = SMALLEST_OF_EACH_LAYER,
    start: Start = "rewound",
    masks: RoundMasks = "pruned",
    masks_of: Sequence[Round] | None = None,
    reinitialize: Reinitialize | None = None,
    seed: int | None = None,
    checkpoint: str | PathLike[str] | None = None,
    **options: Any,
) -> list[Round]:
    """Train a module several times, each time with fewer weights, and return a record of each training.

    The masks of a round are fixed while it trains. After it the recipe removes weights by their trained values, until
    exactly `round(density * N)` of the N maskable ones are active. The next round trains those that are left, from the
    values that they had before the first round (`start="rewound"`: lottery tickets, Frankle & Carbin 2019, arXiv
    1803.03635), after some of its steps (`rewind=k`: Frankle et al. 2019, arXiv 1903.01611; of all parameters and
    buffers, bit for bit), or from where they are (`start="continued"`: iterative pruning, Han et al. 2015).

    The two control experiments of these papers train the same masks from other weights, or other masks from the same
    weights: `run_rounds(fit, module, masks_of=rounds, start="reinitialized")` and
    `run_rounds(fit, module, masks_of=rounds, masks="random")`. Without `masks_of`, weights are removed by the values
    that the control itself has trained.

    Inactive weights are kept at zero in every optimizer step on the module's weights, in any training loop. In a
    Lightning Trainer, `SparseTrainingCallback("static", masks_from=network)`, with the same `include`, `exclude` and
    `dense` as here, adds its checks, its logged densities, and masks in checkpoints; it isn't needed otherwise.

    Args:
        fit: Function of the network and of the round, that trains `network.model` until its end, with a new optimizer
            or Trainer. What it returns is kept as `Round.result`.
        module: Module to train, a LightningModule for instance; it ends with the weights of the last round.
        densities: Density of each round: none above that of the round before, the first one 1 for a dense network; or
            a mapping of layer patterns to densities, as `SparseNetwork.rewire` takes it.
        rewind: Number of optimizer steps of the first round after which weights have the values to rewind to; 0 for
            those before training. Where training continues, only `Round.first_step` depends on it (learning rate
            rewinding, Renda et al. 2020).
        recipe: Rules that say which weights are removed: a name, an import path, a `Recipe`, or a mapping of layer
            patterns to these. Default: the smallest of each layer; `Recipe(magnitude, ranking="network")` removes the
            smallest of all layers together.
        start: "rewound", "reinitialized" (freshly drawn before each later round) or "continued".
        masks: "pruned", or "random": as many active weights in each layer, at random places.
        masks_of: Rounds of an earlier run whose masks and densities are used, instead of pruning.
        reinitialize: Function of the module that draws all of its initial weights. Default: `reset_parameters` of
            every module in it, which leaves frozen parameters and all buffers at their values before the first round.
        seed: Seed of random masks and of freshly drawn weights; default: PyTorch's current initial seed.
        checkpoint: Folder for the file `rounds.pt`, from which a repeated call resumes after the last round that was
            completed, with the global random states that this round left. Results of rounds are saved if they are
            tensors or plain values.
        options: Options of `SparseNetwork`: `include`, `exclude`, `dense`, `min_active`, and `distribution` and
            `initial_masks` of a first round that isn't dense.

    Raises:
        ValueError: If an argument is out of range, densities rise, nothing can be masked, the file is that of other
            rounds (then nothing is changed), the first training ends before the step to rewind to, or a training
            replaces weights.
        TypeError: If an argument has another type.
        RuntimeError: If a training leaves inactive weights that are not zero.

    >>> import torch
    >>> from torch.nn.functional import mse_loss
    >>> from lightning_sparse.rounds import lottery_densities
    >>> def fit(network, round_):
    ...     optimizer = torch.optim.SGD(network.model.parameters(), 0.1)
    ...     for _ in range(round_.first_step, 10):
    ...         optimizer.zero_grad()
    ...         loss = mse_loss(network.model(torch.ones(1, 4)), torch.ones(1, 5))
    ...         loss.backward()
    ...         optimizer.step()
    ...     return loss.item()
    >>> rounds = run_rounds(fit, torch.nn.Linear(4, 5), lottery_densities(0.5), rewind=2)
    >>> [round_.active for round_ in rounds]
    [20, 16, 13, 10, 10]
    """
    _check_fit(fit)
    plan = make_plan(
        module,
        densities,
        masks_of,
        recipe,
        options,
        rewind=rewind,
        start=start,
        masks=masks,
        reinitialize=reinitialize,
        seed=seed,
    )
    file = None if checkpoint is None else RoundsFile(checkpoint)
    saved = None if file is None else file.read(plan.described(), plan.seed)
    training = TrainingRounds.begin(module, plan) if saved is None else TrainingRounds.resume(module, plan, saved)
    while not training.are_done:
        training.run_next(fit)
        if file is not None:
            file.write(training.state_dict())
    return training.rounds


def _check_fit(fit: object) -> None:
    expected = "a function of the network and the round that trains network.model, as fit"
    if not callable(fit):
        raise InvalidTypeError(expected=expected, got=repr(fit)[:80], cure="def fit(network, round_): ...")
    try:
        parameters = signature(fit)
    except (TypeError, ValueError):  # some functions of other languages don't tell
        return
    try:
        parameters.bind(None, None)
    except TypeError as error:
        raise InvalidTypeError(
            expected=expected, got=f"one with other arguments, {parameters}", cure="def fit(network, round_): ..."
        ) from error
