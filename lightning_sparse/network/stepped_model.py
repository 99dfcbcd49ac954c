"""A masked model that is trained: the optimizers that step its weights, and which weights there are to train."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightning_sparse.network.coverage import Coverage, count_others
from lightning_sparse.network.rewirable_model import RewirableModel
from lightning_sparse.selection.weight import Weight
from lightning_sparse.selection.weights import check_same_weights


class SteppedModel(RewirableModel):
    """A rewirable model whose optimizers are followed, so that inactive weights stay at zero after every step.

    Args:
        model: Any module.
        weights: The maskable weights by name.
        choice: Patterns that chose them, see `MaskedModel`.
        active: Number of active weights by name.
    """

    def __init__(
        self, model: nn.Module, weights: Mapping[str, Weight], choice: dict[str, Any], active: Mapping[str, int]
    ) -> None:
        super().__init__(model, weights, choice, active)
        # Parameters of the model when they were examined last: name, weak reference, and whether they were trainable.
        self._examined: list[tuple[str, weakref.ref[nn.Parameter], bool]] = []
        # Number of trained weights then with two or more dimensions that are not maskable.
        self._others = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: its parameters are others than those that were examined."""
        return {**super().__getstate__(), "_examined": []}

    @property
    def coverage(self) -> Coverage:
        """Numbers of active and of all trainable weights in parameters with two or more dimensions, maskable or not."""
        others = self._others if self._is_as_examined() else count_others(self.model, self._parameters)
        size = sum(parameter.numel() for parameter in self._parameters.values())
        return Coverage(sum(self._active.values()) + others, size + others)

    @property
    def overall_density(self) -> float:
        """Active fraction of all trainable weights in parameters with two or more dimensions, in (0, 1].

        Layers that can't be masked (embeddings) or are not (LSTMs, unless included) count as dense, tied weights once.
        """
        return self.coverage.density

    def check_weights(self) -> None:
        """Raise unless the weights that can be masked are those that were, but for masked ones that were frozen since.

        Raises:
            ValueError: With the names of weights that are new or unfrozen, or were replaced or removed.
        """
        if not self._is_as_examined():
            self._examine()

    def _is_as_examined(self) -> bool:
        """Tell whether the model has the parameters of the last examination, trained or frozen as they were then."""
        current = list(self.model.named_parameters())
        return len(current) == len(self._examined) and all(
            name == known_name and parameter is reference() and parameter.requires_grad == was_trained
            for (name, parameter), (known_name, reference, was_trained) in zip(current, self._examined, strict=True)
        )

    def _examine(self) -> None:
        """Search the whole model, and raise unless the maskable weights are those of the constructor."""
        check_same_weights(self.model, self._parameters, self._choice["include"], self._choice["exclude"])
        self._others = count_others(self.model, self._parameters)
        self._examined = [
            (name, weakref.ref(parameter), parameter.requires_grad) for name, parameter in self.model.named_parameters()
        ]

    @property
    def steps(self) -> int:
        """Steps of the attached optimizer; with several, those of the busiest one."""
        return self._signals.steps

    @property
    def multiplications(self) -> dict[str, float]:
        """Multiplications that one active weight of each layer costs per example, > 0, by name, as far as known.

        They are learned where `attach` was told to track them.
        """
        return self._multiplications.known

    def attach(
        self,
        optimizer: Optimizer,
        *,
        track_momentum: bool = True,
        track_gradients: bool = False,
        track_multiplications: bool = False,
    ) -> None:
        """Keep inactive weights at exactly zero after every step of this optimizer, and read momentum from it.

        From then on the same goes for every other optimizer that steps a masked weight: one that replaces this one, or
        that it wraps. Gradients are left alone: growth needs the momentum of inactive weights.

        Args:
            optimizer: An optimizer that steps some or all of the masked weights. Call once for each.
            track_momentum: Whether to keep, where optimizers have no momentum that can be compared, an exponential
                moving average of gradients (smoothing factor 0.9, one tensor per weight). See `momentum_sources`.
            track_gradients: Hold on to the gradients of each step until the next one, for a recipe that decides by
                them after they were set to None.
            track_multiplications: Learn from the first step how many multiplications a weight of each layer costs, for
                a recipe that decides by them; no layer is looked at later. A compiled model must be compiled before.

        Raises:
            ValueError: If the optimizer steps none of the masked weights or is attached already.
        """
        self._signals.follow(
            optimizer, track_momentum=track_momentum, track_gradients=track_gradients, masks=self._masks
        )
        if track_multiplications:
            self._multiplications.learn(self.model)

    def watch(
        self, *, track_momentum: bool = True, track_gradients: bool = False, track_multiplications: bool = False
    ) -> None:
        """Do the same with every optimizer that steps a masked weight from now on, though none is there to attach.

        Args:
            track_momentum: See `attach`.
            track_gradients: See `attach`.
            track_multiplications: See `attach`.
        """
        self._signals.follow_any(track_momentum=track_momentum, track_gradients=track_gradients, masks=self._masks)
        if track_multiplications:
            self._multiplications.learn(self.model)

    def look(self, loop_steps: Callable[[], int] = int) -> None:
        """Look for changes that PyTorch's hooks don't see, and mask them; to be called after every batch.

        They see no step of an optimizer whose constructor doesn't call that of its base class, nor of a package that
        steps weights without an optimizer. Such a step is counted here. Where hooks see steps, it costs a microsecond.

        Args:
            loop_steps: Function that returns how many steps the training loop has counted so far. Without it, a step
                that no hook sees is told by weights that have changed.
        """
        signals = self._signals
        if not signals.unseen.are_none or self._latest_masks.have_changed():
            signals.look(loop_steps)

    @property
    def momentum_sources(self) -> list[str]:
        """What is read as momentum, in a line for each attached optimizer; with the memory of averages kept instead."""
        return self._signals.momentum_sources()

    def is_stepped_by(self, optimizer: Optimizer) -> bool:
        """Tell whether the optimizer steps at least one masked weight."""
        return bool(self._signals.names_stepped_by(optimizer))

    @property
    def unattached(self) -> list[str]:
        """Names of the masked weights that could be trained but that no attached optimizer steps."""
        trainable = [name for name in self._masks.names if self._parameters[name].requires_grad]
        return [name for name in trainable if not self._signals.is_stepped(name)]

    @property
    def untrained(self) -> list[str]:
        """Names of the masked weights that never had a gradient in a step, though others had; but for frozen ones."""
        trained = self._signals.trained
        without = [name for name in self._masks.names if name not in trained and self._parameters[name].requires_grad]
        return without if trained else []

    def detach(self) -> None:
        """Undo every `attach`; the masks stay, and so do the averages kept in place of momentum."""
        self._signals.detach()
        self._multiplications.stop()

    def act_after_steps(self, act: Callable[[Sequence[str]], None] | None) -> None:
        """Call a function of stepped weights' names after every step, before inactive weights are set to zero again.

        `detach` ends it, as None does.
        """
        self._signals.act = act

    def leave_out_step(self, optimizer: Optimizer, leave_out: bool = True) -> None:
        """Leave out the optimizer step whose gradients are ready: neither weights nor momentum change in it.

        Called in a closure that the optimizer evaluates, it is the step that it is in, else the next one.

        Args:
            optimizer: The optimizer.
            leave_out: Whether to do so; False takes it back, for a step that was never made.
        """
        self._signals.leave_out(optimizer, leave_out)

    def names_stepped_by(self, optimizer: Optimizer) -> list[str]:
        """Return the names of the masked weights that an optimizer steps."""
        return self._signals.names_stepped_by(optimizer)

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers that are followed, the one first that stepped last."""
        return self._signals.optimizers

    def optimizers_of(self, name: str) -> list[Optimizer]:
        """Return the optimizers that step a weight, the one first that stepped last; only while they are followed."""
        return self._signals.optimizers_of(name)
