"""Methods that each break the contract in one way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from lightning_sparse.methods import Method, Progress
from lightning_sparse.network import SparseNetwork
from lightning_sparse.testing.methods.method import Subject
from lightning_sparse.topology import Recipe
from lightning_sparse.topology.growth import gradient, random
from lightning_sparse.topology.pruning import magnitude

MOVING = Recipe(magnitude, None, random)


class Moving(Method):
    """Moves weights at random after every second step: every random number matters."""

    rate: ClassVar[float] = 0.3

    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        if progress.step % 2 == 0:
            network.rewire(MOVING, self.rate)


class Overfull(Moving):
    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        network.set_masks({"net.3.weight": torch.ones(4, 8, dtype=torch.bool)})


class Resulting(Overfull):
    budget = None


class Hasty(Moving):
    def gradients_ready(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        network.rewire(MOVING, self.rate)


class KeepsHook(Moving):
    def prepare(self, network: SparseNetwork) -> None:
        network.model.net[0].register_forward_pre_hook(_nothing)  # type: ignore[index, union-attr]  # of the checks' module


def _nothing(*_: Any) -> None:
    pass


class NotCopied(Moving):
    def __init__(self) -> None:
        self.steps = 0

    def __deepcopy__(self, _: Any) -> NotCopied:
        return self

    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        self.steps += 1


class Detaching(Moving):
    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        network.detach()


class SecondNetwork(Moving):
    other: SparseNetwork | None = None

    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        if self.other is None:
            self.other = SparseNetwork(network.model, masks=network)
            self.other.attach(network.optimizers[0])


class Forgetful(Moving):
    def begin(self, network: SparseNetwork, density: Any) -> None:
        self.generator = torch.Generator().manual_seed(network.draw_seed())

    def prepare(self, network: SparseNetwork) -> None:
        self.generator = torch.Generator()

    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        network.rewire(MOVING, float(torch.rand((), generator=self.generator)))


class Registering(Moving):
    def prepare(self, network: SparseNetwork) -> None:
        network.model.register_buffer("gate", torch.ones(3))


class Fading(Moving):
    fits: ClassVar[list[int]] = []

    def begin(self, network: SparseNetwork, density: Any) -> None:
        self.fits.append(1)

    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        network.rewire(MOVING, 1 / (1 + len(self.fits)))


class ShrinksInEvaluation(Moving):
    def prepare(self, network: SparseNetwork) -> None:
        network.model.net[0].register_forward_pre_hook(_shrink)  # type: ignore[index, union-attr]  # of the checks' module


def _shrink(layer: torch.nn.Linear, _: Any) -> None:
    if not layer.training:
        layer.weight.data.mul_(0.9)


class WithLambda(Moving):
    def __init__(self) -> None:
        self.act = lambda: None


class PrunesEachAlone(Moving):
    """Prunes to the density in the second step of each optimizer, with the names of that one only."""

    budget = "reached"

    def starting_density(self, density: Any) -> Any:
        return 1.0

    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        assert isinstance(self.density, float)
        if progress.step == 2 and network.density > self.density:
            network.rewire(Recipe(magnitude), density=self.density, names=names)


class Apart(Moving):
    def after_step(self, network: SparseNetwork, names: Sequence[str], progress: Progress) -> None:
        mask = torch.zeros(32, dtype=torch.bool)
        mask[torch.randperm(32)[: network.layers["net.3.weight"].active]] = True
        network.set_masks({"net.3.weight": mask.view(4, 8)})


class MovesOnce(Method):
    """Moves weights to where the gradient of the last step is largest, which is right."""

    signals = frozenset({"gradient"})

    def update(self, network: SparseNetwork, progress: Progress) -> None:
        network.rewire(Recipe(magnitude, None, gradient), 0.3, record=self.record)


class MovesTwice(Method):
    """Moves weights twice in an update, which an interruption may divide."""

    def update(self, network: SparseNetwork, progress: Progress) -> None:
        network.rewire(MOVING, 0.3, record=self.record)
        network.rewire(MOVING, 0.3, record=self.record)


WRONG: dict[str, type[Method]] = {
    "the_budget_is_exact": Overfull,
    "several_optimizers_may_step": PrunesEachAlone,
    "skipped_steps_change_nothing": Hasty,
    "an_interrupted_update_happens_as_a_whole": MovesTwice,
    "the_network_is_an_ordinary_one_afterwards": KeepsHook,
    "the_method_that_was_given_stays_as_it_is": NotCopied,
    "inactive_weights_are_zero_after_every_step": Detaching,
    "optimizers_are_free_after_fit": SecondNetwork,
    "optimizers_are_free_after_an_exception": SecondNetwork,
    "resumes_bit_for_bit_from_every_checkpoint": Forgetful,
    "checkpoints_load_into_the_plain_module": Registering,
    "one_object_serves_fit_after_fit": Fading,
    "evaluation_changes_nothing": ShrinksInEvaluation,
    "survives_copying_before_fit": WithLambda,
    "survives_copying_while_it_trains": WithLambda,
    "survives_copying_after_fit": WithLambda,
    "all_ranks_have_the_same_masks_and_weights": Apart,
}
METHODS = {name: Subject(method) for name, method in WRONG.items()}
