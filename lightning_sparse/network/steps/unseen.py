"""Steps that no hook sees: of optimizers that skip their base class's constructor, or of what is no optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch.optim import Optimizer

from lightning_sparse.network.steps.kinds import is_seen


class UnseenSteps:
    """What is known of steps that hooks don't see, from a look after each batch.

    Attributes:
        may_escape: Whether a weight may change in a way that PyTorch doesn't count: an attached optimizer isn't seen.
        counted: Number of unseen steps since the first optimizer was attached.
        are_none: Whether there will be none: hooks see the attached optimizers, and have seen a step.
    """

    def __init__(self) -> None:
        self.may_escape = False
        self.counted = 0
        self.are_none = False
        # Whether no attached optimizer is one that hooks see.
        self._is_blind = True
        # Whether hooks have ever seen a step, and one since the last look.
        self._have_seen = self._saw = False
        # Steps by the count of the training loop, at the last look.
        self._loop_steps: int | None = None

    def expect(self, optimizers: Iterable[Optimizer]) -> None:
        """Begin with these optimizers attached."""
        are_seen = [*map(is_seen, optimizers)]
        self.may_escape, self._is_blind = not all(are_seen), not any(are_seen)

    def note_seen(self) -> int:
        """Take note of a step that hooks saw; return how many were counted wrongly before.

        Where they see one at last, what changed weights until then was something else.
        """
        self._have_seen = self._saw = True
        self.are_none = not self._is_blind and not self.may_escape
        wrong, self.counted = 0 if self._is_blind else self.counted, 0
        return wrong

    def look(self, has_changed: bool, loop_steps: Callable[[], int]) -> bool:
        """Tell whether there was a step since the last look that hooks did not see.

        Args:
            has_changed: Whether weights have changed.
            loop_steps: Returns the number of steps that the training loop has counted. At the first look it is only
                remembered.
        """
        saw, self._saw = self._saw, False
        if saw or (self._have_seen and not self._is_blind):
            return False
        before, self._loop_steps = self._loop_steps, loop_steps()
        has_stepped = before is not None and self._loop_steps > before
        is_one = has_changed or has_stepped if self._is_blind else has_changed and has_stepped
        self.counted += is_one
        return is_one
