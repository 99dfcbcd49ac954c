"""The rounds in progress: one training after the other, and what happens in between."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.ranks import is_rank_zero
from lightning_sparse.network.state import with_checksum
from lightning_sparse.rounds.file import round_to_plain
from lightning_sparse.rounds.module_values import ModuleValues
from lightning_sparse.rounds.plan import RoundsPlan
from lightning_sparse.rounds.random_states import random_states, seed_of, set_random_states
from lightning_sparse.rounds.reinitialize import redraw
from lightning_sparse.rounds.round import Round
from lightning_sparse.rounds.step_watch import StepWatch
from lightning_sparse.selection.patterns import name_list
from lightning_sparse.topology.layer import MULTIPLICATIONS
from lightning_sparse.topology.select import top_k_mask
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError

# Trains `network.model` until its end.
Fit = Callable[[SparseNetwork, Round], Any]


@dataclass(eq=False, repr=False)
class TrainingRounds:
    """The rounds of one module, as far as they are done.

    Attributes:
        plan: The rounds to run.
        seed: Seed of random masks and freshly drawn weights.
        network: The module with its masks; between rounds it has those of the next one.
        modes: Whether each module in it was in training mode before the first round, by name.
        kept: Values that later rounds start from; None if there are none, or none yet.
        rounds: The rounds that are done.
    """

    plan: RoundsPlan
    seed: int
    network: SparseNetwork
    modes: dict[str, bool]
    kept: ModuleValues | None
    rounds: list[Round] = field(default_factory=list)

    @classmethod
    def begin(cls, module: nn.Module, plan: RoundsPlan) -> TrainingRounds:
        """Return the rounds before the first one; the module has its first masks from then on.

        Raises:
            ValueError: If nothing can be masked, or masks don't fit. Then nothing is changed.
        """
        seed = torch.initial_seed() if plan.seed is None else plan.seed
        kept = None if plan.start == "continued" or plan.rewinds_to_a_step else ModuleValues.of(module)
        modes = {name: part.training for name, part in module.named_modules()}
        return cls(plan, seed, _network(module, plan, seed), modes, kept)

    @classmethod
    def resume(cls, module: nn.Module, plan: RoundsPlan, saved: dict[str, Any]) -> TrainingRounds:
        """Return the rounds as they were saved; module and global random states are as they were left then.

        Raises:
            ValueError: If the module is another one. Then nothing is changed.
        """
        kept, ended = (_values(saved[name]) for name in ("kept", "module"))
        known = [values for values in (kept, ended) if values is not None]
        known[0].restore(module)  # values that the first masks fit
        network = _network(module, plan, saved["seed"], saved["network"])
        known[-1].restore(module)
        rounds = [
            Round(
                index,
                plan.densities[index],
                each["active"],
                each["first_step"],
                {name: mask.clone() for name, mask in each["masks"].items()},
                {name: tuple(shape) for name, shape in each["shapes"].items()},
                each["result"],
            )
            for index, each in enumerate(saved["rounds"])
        ]
        set_random_states(saved["random"])
        return cls(plan, saved["seed"], network, dict(saved["modes"]), kept, rounds)

    @property
    def are_done(self) -> bool:
        """Whether there is no further round."""
        return len(self.rounds) == len(self.plan.densities)

    def state_dict(self) -> dict[str, Any]:
        """Return what `resume` needs, tensors and plain values only."""
        ends_with_weights = self.are_done or self.plan.start == "continued"
        return {
            "plan": self.plan.described(),
            "seed": self.seed,
            "rounds": [round_to_plain(each) for each in self.rounds],
            "network": self.network.state_dict(),
            "kept": None if self.kept is None else self.kept.to_plain(),
            "module": ModuleValues.of(self.network.model).to_plain() if ends_with_weights else None,
            "modes": self.modes,
            "random": random_states(),
        }

    def run_next(self, fit: Fit) -> None:
        """Train the next round, and find the masks of the one after it.

        Raises:
            ValueError: If the first round ends before the step to rewind to, or layers were replaced.
            RuntimeError: If inactive weights are not zero afterwards.
        """
        plan, network, index = self.plan, self.network, len(self.rounds)
        if index:
            self._begin_round(index)
        now = Round.of(index, plan.densities[index], plan.first_step(index), network.masks)
        before = network.fingerprint().tolist()
        with self._watched(is_first=not index) as watch:
            result = fit(network, now)
            self._check_masks(index, before)
            self._check_steps(index, before, watch)
            if index + 1 < len(plan.densities):
                self._find_masks(index + 1)
        _forget_signals(network)
        self.rounds.append(replace(now, result=result))

    def _begin_round(self, index: int) -> None:
        """Give the weights the values that a later round starts from."""
        module = self.network.model
        if self.plan.start == "reinitialized":
            assert self.kept is not None  # as these are the values before the first round
            redraw(module, self.kept, seed_of("initial weights", self.seed, index), self.plan.reinitialize)
            self.network.check_weights()
        elif self.kept is not None:
            self.kept.restore(module)
        self.network.enforce()
        for parameter in module.parameters():
            parameter.grad = None
        for name, part in module.named_modules():
            part.training = self.modes.get(name, part.training)

    @contextmanager
    def _watched(self, *, is_first: bool) -> Iterator[StepWatch | None]:
        """Mask every optimizer step on the weights, and keep the values after the one to rewind to."""
        signals = self.plan.signals
        self.network.watch(
            track_momentum="momentum" in signals,
            track_gradients="gradient" in signals,
            track_multiplications=MULTIPLICATIONS in signals,
        )
        watch = (
            StepWatch(self.network.maskable, self.plan.rewind, self._keep) if is_first and self.plan.rewind else None
        )
        if watch is not None:
            watch.watch()
        try:
            yield watch
        finally:
            self.network.detach()
            if watch is not None:
                watch.detach()

    def _keep(self) -> None:
        if self.plan.rewinds_to_a_step:
            self.kept = ModuleValues.of(self.network.model)

    def _check_masks(self, index: int, before: list[int]) -> None:
        network = self.network
        network.check_weights()
        outside = network.count_outside()
        if outside or network.fingerprint().tolist()[0] != before[0]:
            found = f"{sum(outside.values())} others, in {name_list([*outside])}" if outside else "other masks"
            raise InvalidStateError(
                expected=f"a training of round {index} that leaves masks as they are, and inactive weights at zero",
                got=found,
                cure="train network.model itself, with masks that don't change (SparseTrainingCallback('static', ...))",
            )

    def _check_steps(self, index: int, before: list[int], watch: StepWatch | None) -> None:
        if watch is not None and watch.steps < self.plan.rewind:
            raise InvalidValueError(
                expected=f"at least {self.plan.rewind} optimizer steps in the first round, to rewind to",
                got=f"{watch.steps} steps on masked weights that PyTorch's hooks saw in this process",
                cure=(
                    "a lower rewind, a longer training, an optimizer derived from torch.optim.Optimizer, or a strategy "
                    "that trains in this process ('ddp', not 'ddp_spawn')"
                ),
            )
        if not self.network.steps and self.network.fingerprint().tolist() == before and is_rank_zero():
            warnings.warn(
                f"Expected a training function that changes the weights; got them unchanged in round {index}. "
                "Cure: make a new Trainer or optimizer in every call, and train network.model.",
                stacklevel=4,
            )

    def _find_masks(self, index: int) -> None:
        """Give the network the masks of a later round."""
        plan, network = self.plan, self.network
        if plan.masks_of is None:
            network.rewire(plan.recipe, density=plan.densities[index])
        if plan.masks_of is not None or plan.masks == "random":
            masks = network.masks if plan.masks_of is None else plan.masks_of[index].masks
            masks = _chosen(masks, plan, self.seed, index)
            network.set_masks({name: mask for name, mask in masks.items() if network.local_mask(name) is not None})


def _network(module: nn.Module, plan: RoundsPlan, seed: int, state: dict[str, Any] | None = None) -> SparseNetwork:
    if plan.masks_of is None:
        return SparseNetwork(module, plan.densities[0], seed=seed, state=state, **plan.options)
    masks = _chosen(plan.masks_of[0].masks, plan, seed, 0)
    return SparseNetwork(module, masks=masks, seed=seed, state=state, **plan.options)


def _chosen(masks: dict[str, Tensor], plan: RoundsPlan, seed: int, index: int) -> dict[str, Tensor]:
    """Return masks of a round: those themselves, or random ones with as many active weights in each layer."""
    if plan.masks == "pruned":
        return masks
    generator = torch.Generator().manual_seed(seed_of("random masks", seed, index))
    return {
        name: top_k_mask(torch.rand(mask.shape, generator=generator), int(torch.count_nonzero(mask)))
        for name, mask in masks.items()
    }


def _forget_signals(network: SparseNetwork) -> None:
    """Let the next round begin as a new network with these masks would, without averages and steps of this one."""
    state = {name: value for name, value in network.state_dict().items() if name not in ("version", "checksum")}
    network.load_state_dict(with_checksum({**state, "averages": {}, "gradients": {}, "steps": 0}))


def _values(saved: dict[str, Any] | None) -> ModuleValues | None:
    return None if saved is None else ModuleValues.from_plain(saved)
