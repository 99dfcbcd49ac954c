"""How far channels are specialized: the part of a channel's activity that is due to one class.

Dettmers & Zettlemoyer (2019), section 5.2: sum the magnitude of the activation in each channel separately for each
class, over all training images; normalize over the classes; the largest proportion is the channel's specialization. It
is 1 / classes for a channel that is equally active for all classes, and 1 for one that is active for a single class.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_sparse.analysis.specialization_inputs import check_batch, check_specialization_options
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError

# Features per chunk, 128 MB in float64: some devices cast a whole tensor before they sum it.
_AT_ONCE = 2**24
# Shape of the table before the first update. No real table has it, as there are at least two classes, and it broadcasts
# to any other table's shape when the two are added.
_UNKNOWN = (1, 1)


def image_activity(features: Tensor) -> Tensor:
    """Return the sum of |activation| of each channel of each image: float64 ``(batch, channels)``.

    Args:
        features: Real floating-point numbers ``(batch, channels, *spatial)``, of any precision.

    >>> image_activity(torch.tensor([[[1.0, -1.0], [3.0, 0.0]]])).tolist()
    [[2.0, 3.0]]
    """
    if features.ndim == 2:
        return features.to(torch.float64).abs()
    places = tuple(range(2, features.ndim))
    images = max(1, _AT_ONCE // max(1, prod(features.shape[1:])))
    # Cast within the sum: to cast before takes much longer on a CPU.
    return torch.cat([part.abs().sum(places, dtype=torch.float64) for part in torch.split(features, images)])


def class_activity(activity: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the sum over the images of each class: float64 ``(channels, classes)``, the same bits each time.

    Args:
        activity: Activity of each image, float64 ``(batch, channels)``, as `image_activity` returns it.
        labels: Integers ``(batch,)``, 0 <= label < num_classes. An image with another label counts for no class.
        num_classes: Number of classes.

    >>> class_activity(torch.tensor([[2.0, 3.0], [1.0, 1.0]]).double(), torch.tensor([0, 1]), num_classes=2).tolist()
    [[2.0, 1.0], [3.0, 1.0]]
    """
    # A product, since adding by index is not deterministic on CUDA.
    return activity.T @ _one_hot(labels, num_classes).to(torch.float64)


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Return the number of images of each class: int64 ``(classes,)``.

    Args:
        labels: Integers ``(batch,)``, as in `class_activity`.
        num_classes: Number of classes.
    """
    return _one_hot(labels, num_classes).sum(0)


def _one_hot(labels: Tensor, num_classes: int) -> Tensor:
    # Without a check of the range, for which the host would have to wait for the device.
    return labels.long().unsqueeze(1) == torch.arange(num_classes, device=labels.device)


def per_image(activity: Tensor, images: Tensor) -> Tensor:
    """Return the mean activity of the images of each class, so that large classes don't count for more.

    Args:
        activity: Sums over the images of each class, ``(channels, classes)``, >= 0.
        images: Number of images of each class, ``(classes,)``. A class without images has no activity.
    """
    return activity / images.clamp(min=1)


def specialization_of(activity: Tensor, drop_fraction: float = 0.0) -> dict[str, Tensor]:
    """Return how specialized each channel is, from the activity for each class.

    Channels that are dead (no activity at all) or dropped have NaN as specialization, so that none of them is averaged.

    Args:
        activity: Sum or mean of |activation|, ``(channels, classes)``, finite, >= 0.
        drop_fraction: The least active channels that jointly carry less than this part of all activity, in [0, 1), are
            dropped. The authors' code has 0.05; their text has no such step: 0.

    Returns:
        ``specialization`` ``(channels,)``, in [1 / classes, 1] or NaN; ``proportions`` ``(channels, classes)``, rows
        that sum to 1, or NaN; ``activity_share`` ``(channels,)``, that sums to 1 (0 where there is no activity);
        ``dead`` and ``dropped``, the numbers of channels without activity and of others that were dropped.

    >>> specialization_of(torch.tensor([[1.0, 1.0], [1.0, 3.0], [0.0, 0.0]]))["specialization"].tolist()
    [0.5, 0.75, nan]
    """
    of_channel = activity.sum(1)
    total = of_channel.sum()
    share = torch.where(total > 0, of_channel / total, 0.0)
    dead = of_channel == 0
    dropped = _least_active(share, drop_fraction) & ~dead
    counted = ~(dead | dropped)
    proportions = torch.where(counted.unsqueeze(1), activity / of_channel.unsqueeze(1), torch.nan)
    return {
        "specialization": proportions.amax(1),
        "proportions": proportions,
        "activity_share": share,
        "dead": dead.sum(),
        "dropped": dropped.sum(),
    }


def _least_active(share: Tensor, fraction: float) -> Tensor:
    """Mark the least active channels whose cumulative share is below a fraction, bool ``(channels,)``."""
    # On the CPU: CUDA has no deterministic cumulative sum. Ties: the lower index counts as less active.
    ordered, order = share.cpu().sort(stable=True)
    least = torch.zeros(len(share), dtype=torch.bool)
    least[order] = ordered.cumsum(0) < fraction
    return least.to(share.device)


class ClassSpecialization(Metric):
    """How specialized the channels of one layer are: the largest part of a channel's activity due to one class.

    Accumulates the sums of |activation| over images in float64, in a table of channels and classes: memory doesn't
    depend on the number of images, and no update waits for the device. Features that are not finite and labels out of
    range are therefore counted on the device and raised by `compute`.

    The states are saved with the metric's `state_dict`; `metric.persistent(False)` leaves them out. In a distributed
    run, processes without data take part. Devices without float64 (MPS) can't hold states: give features on the CPU.

    Args:
        num_classes: Number of classes, >= 2.
        drop_fraction: The least active channels that jointly carry less than this part of all activity, in [0, 1), are
            left out. The authors' code has 0.05; the default, 0, follows their text.
        balanced: Whether each class's activity is divided by its number of images first.
        **kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of range.

    >>> metric = ClassSpecialization(num_classes=2)
    >>> metric.update(torch.tensor([[1.0, -1.0], [-3.0, 0.0]]), torch.tensor([0, 1]))
    >>> metric.compute()["specialization"].tolist()
    [0.75, 1.0]
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    if TYPE_CHECKING:  # annotations of a class that are strings end torch.jit.script of a module with such a metric
        activity: Tensor
        images: Tensor
        invalid: Tensor

    def __init__(self, num_classes: int, drop_fraction: float = 0.0, balanced: bool = False, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dist_sync_fn": kwargs.get("dist_sync_fn") or _gather})
        check_specialization_options(num_classes, drop_fraction)
        self.num_classes, self.drop_fraction, self.balanced = num_classes, drop_fraction, balanced
        table = torch.zeros(_UNKNOWN, dtype=torch.float64)
        self.add_state("activity", table, dist_reduce_fx="sum", persistent=True)
        for name, size in (("images", num_classes), ("invalid", 2)):
            self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum", persistent=True)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            features: Real floating-point numbers ``(batch, channels, *spatial)`` or ``(batch, channels)``.
            labels: Integers ``(batch,)`` on the same device, 0 <= label < num_classes.

        Raises:
            TypeError: If a dtype is wrong.
            ValueError: If shapes or devices don't fit together, or the number of channels has changed.
        """
        check_batch(features, labels)
        self._check_table((features.shape[1], self.num_classes))
        activity, counts = image_activity(features.detach()), class_counts(labels, self.num_classes)
        self.activity = self.activity + class_activity(activity, labels, self.num_classes)
        self.images = self.images + counts
        # A feature that is not finite makes its sum so.
        invalid = (~activity.isfinite()).any(1).sum(), len(labels) - counts.sum()
        self.invalid = self.invalid + torch.stack(invalid)

    @torch.jit.unused
    def forward(self, features: Tensor, labels: Tensor) -> Any:
        """Add a batch and return the result of this batch alone."""
        check_batch(features, labels)
        self._check_table((features.shape[1], self.num_classes))  # before the state is replaced by the batch's
        return super().forward(features, labels)

    def compute(self) -> dict[str, Tensor]:
        """Return the result of `specialization_of` for all images so far.

        With a single channel, values of shape ``(channels,)`` are scalars, as torchmetrics squeezes them.

        Raises:
            RuntimeError: If there was no update.
            ValueError: If features were not finite or labels out of range.
        """
        if self.activity.shape == _UNKNOWN:
            raise InvalidStateError(
                expected="features to compute from",
                got="none",
                cure="call update(features, labels) before",
            )
        self._check_table((len(self.activity), self.num_classes))
        infinite, unknown = self.invalid.tolist()
        if infinite:
            raise InvalidValueError(
                expected="finite features",
                got=f"NaN or infinity for {infinite} images",
                cure=(
                    "look for where the network diverges or images are not finite, or use a precision with a "
                    "larger range; reset your own metric afterwards"
                ),
            )
        if unknown:
            raise InvalidValueError(
                expected=f"0 <= label < {self.num_classes}",
                got=f"other labels for {unknown} images",
                cure=(
                    "give the number of classes as num_classes, and labels from 0 on; reset your own metric afterwards"
                ),
            )
        activity = per_image(self.activity, self.images) if self.balanced else self.activity
        return specialization_of(activity, self.drop_fraction)

    def sync(self, dist_sync_fn: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> None:
        """Sum the states over processes, also without data in some; arguments as in `torchmetrics.Metric.sync`."""
        super().sync(dist_sync_fn or self.dist_sync_fn, *args, **kwargs)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        self._check_table(tuple(incoming_state["activity"].shape))
        super()._reduce_states(incoming_state)

    def _check_table(self, shape: tuple[int, ...]) -> None:
        current = tuple(self.activity.shape)
        if shape != current and _UNKNOWN not in (shape, current):
            raise InvalidValueError(
                expected=f"{current[0]} channels and {current[1]} classes, as before",
                got=f"{shape[0]} and {shape[1]}",
                cure="use one metric per layer, and reset it if the layer is replaced",
            )


def _gather(result: Tensor, group: Any = None) -> list[Tensor]:
    """Return one state of each process; the state of a process without data is zeros of the others' shape."""
    gathered = gather_all_tensors(result, group)
    shapes = {tuple(state.shape) for state in gathered} - {_UNKNOWN}
    if len(shapes) > 1:
        raise InvalidValueError(
            expected="states of the same shape in all processes",
            got=sorted(shapes),
            cure="use one metric per layer",
        )
    (shape,) = shapes or {_UNKNOWN}
    return [state.expand(shape) for state in gathered]
