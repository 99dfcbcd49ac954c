"""Callbacks that each break the contract in one way."""

from __future__ import annotations

from typing import Any

import torch

from lightning_sparse import SparseTrainingCallback


class Sparse(SparseTrainingCallback):
    """Random growth at a constant rate: every update matters."""

    def __init__(self, density: float = 0.3) -> None:
        super().__init__(recipe="set", density=density)


class Overfull(Sparse):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        assert self.network is not None
        self.network._masks["net.0.weight"] = torch.ones_like(self.network.masks["net.0.weight"])


class Detached(Sparse):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        assert self.network is not None
        self.network.detach()


class KeepsHooks(Sparse):
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        pass


class KeepsHooksOnException(Sparse):
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        pass


class Forgetful(Sparse):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "history": []}


class Registering(Sparse):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        pl_module.register_buffer("mask", torch.ones(3))


class Fading(Sparse):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        self._prune_rate.initial /= 2


class Resetting(Sparse):
    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self._reset()


class HoldsLambda(Sparse):
    def __init__(self, density: float = 0.3) -> None:
        super().__init__(density)
        self.rule = lambda layer: layer.weight.abs()


class HoldsLambdaLater(Sparse):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        self.rule = lambda layer: layer.weight.abs()


class Apart(Sparse):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        assert self.network is not None
        self.network._generator.manual_seed(trainer.global_rank)


CALLBACKS = {
    "budget_is_exact_after_every_step": Overfull,
    "inactive_weights_are_zero_after_every_step": Detached,
    "optimizers_are_free_after_fit": KeepsHooks,
    "optimizers_are_free_after_an_exception": KeepsHooksOnException,
    "resumes_bit_for_bit_from_every_checkpoint": Forgetful,
    "checkpoints_load_into_the_plain_module": Registering,
    "one_object_serves_fit_after_fit": Fading,
    "evaluation_changes_nothing": Resetting,
    "survives_copying_before_fit": HoldsLambda,
    "survives_copying_while_it_trains": HoldsLambdaLater,
    "survives_copying_after_fit": HoldsLambdaLater,
    "all_ranks_have_the_same_masks_and_weights": Apart,
}
