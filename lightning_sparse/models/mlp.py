"""Multilayer perceptrons of any depth and width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_sparse.models.sizes import check_count, check_width, flattened, scaled
from lightning_sparse.validation.errors import InvalidValueError


class SReLU(nn.Module):
    """S-shaped rectified linear unit: the identity between two thresholds, a line with a slope of its own beyond each.

    With thresholds ``l`` and ``r`` and slopes ``a`` and ``b``: ``l + a (x - l)`` below ``l``, ``x`` between,
    ``r + b (x - r)`` above ``r``. Continuous; all four are learned. Jin et al., "Deep Learning with S-shaped
    Rectified Linear Activation Units" (2016, arXiv 1512.07030), who learn them per channel; here all units of a layer
    share them, as in ``torch.nn.PReLU``, so that layers of all widths have the same number. They start at the
    thresholds -0.4 and 0.4 and the slopes 0.4 and 2.0 with which Tessera et al., "Keep the Gradients Flowing" (2021),
    plot it.

    >>> SReLU()(torch.tensor([-1.4, 0.1, 1.4])).tolist()
    [-0.800..., 0.100..., 2.400...]
    """

    def __init__(self) -> None:
        super().__init__()
        self.thresholds = nn.Parameter(torch.tensor([-0.4, 0.4]))
        self.slopes = nn.Parameter(torch.tensor([0.4, 2.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the function to each value of a tensor of any shape."""
        low, high = self.thresholds
        below, above = self.slopes
        upper = torch.where(inputs > high, high + above * (inputs - high), inputs)
        return torch.where(inputs < low, low + below * (inputs - low), upper)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "swish": nn.SiLU,
    "srelu": SReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
"""The activations of :class:`MLP` by name; "swish" is ``x * sigmoid(x)``, "prelu" starts with slope 0.25."""


class MLP(nn.Module):
    """Multilayer perceptron: linear hidden layers with one activation, and a linear output layer.

    With the defaults it is LeNet-300-100 (LeCun et al., 1998; see :class:`LeNet300100`) under other layer names:
    266,610 parameters, 266,200 of them weights, for images of 28 x 28. ``MLP(3072, [3076] * 4)`` is a network of the
    same-capacity comparison of Tessera et al., "Keep the Gradients Flowing" (2021, arXiv 2102.01670).

    A hidden layer computes ``y = activation(norm(W x + b))``, without ``norm`` if there is no batch normalization.
    With skip connections, a hidden layer returns ``x + y`` if it has as many units as the hidden layer before it, and
    ``y`` otherwise; the first hidden layer and the output layer have no skip connection. Initialized as PyTorch
    initializes linear layers.

    Args:
        in_features: Pixels times channels of an image; 784 for MNIST.
        hidden: Units of each hidden layer, one number per layer. ``()`` makes softmax regression.
        num_classes: Number of outputs.
        activation: "relu", "prelu", "elu", "swish", "srelu", "sigmoid" or "tanh", in all hidden layers;
            its learned parameters, if any, are each layer's own.
        batch_norm: Whether each hidden layer normalizes ``W x + b`` before the activation. Biases stay.
        skip: Whether to add skip connections.
        width: Factor > 0 of the hidden layers' units, rounded.

    Raises:
        ValueError: If there is no such activation, a number is outside its range, or ``skip`` is set
            and no two neighbouring hidden layers have the same number of units.
    """

    def __init__(
        self,
        in_features: int = 784,
        hidden: Sequence[int] = (300, 100),
        num_classes: int = 10,
        activation: str = "relu",
        batch_norm: bool = False,
        skip: bool = False,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        check_count("in_features", in_features)
        check_count("num_classes", num_classes)
        check_width(width)  # without hidden layers, too
        units = _check_hidden_layers(hidden, activation, skip)
        self.in_features = in_features
        sizes = [in_features, *(scaled(count, width) for count in units)]
        skips = [False, *(skip and before == after for before, after in pairwise(units))]
        self.hidden = nn.Sequential(
            *(
                HiddenLayer(before, after, ACTIVATIONS[activation](), batch_norm, has_skip)
                for (before, after), has_skip in zip(pairwise(sizes), skips, strict=False)
            )
        )
        self.output = nn.Linear(sizes[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, *any)`` to logits ``(batch, num_classes)``.

        Raises:
            ValueError: If an image does not have ``in_features`` values.
        """
        features = flattened(images, self.in_features)
        return self.output(self.hidden(features))  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any


class HiddenLayer(nn.Module):
    """``activation(norm(W x + b))``, plus ``x`` if skipped; see :class:`MLP`.

    Args:
        in_features: Units of the layer before.
        out_features: Units of this layer.
        activation: Activation function, applied to each value.
        batch_norm: Whether ``W x + b`` is normalized before the activation.
        skip: Whether the input is added; it must have ``out_features`` units.
    """

    def __init__(
        self, in_features: int, out_features: int, activation: nn.Module, batch_norm: bool, skip: bool
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.norm: nn.Module = nn.BatchNorm1d(out_features) if batch_norm else nn.Identity()
        self.activation = activation
        self.skip = skip

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, in_features)`` to ``(batch, out_features)``."""
        result: Tensor = self.activation(self.norm(self.linear(features)))
        return features + result if self.skip else result


def _check_hidden_layers(hidden: Sequence[int], activation: str, skip: bool) -> list[int]:
    """Return the units per hidden layer as a list."""
    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise InvalidValueError(
            expected="hidden as a sequence of units per layer",
            got=repr(hidden),
            cure="(300, 100), for instance",
        )
    for position, units in enumerate(hidden, start=1):
        check_count(f"units of hidden layer {position}", units)
    if activation not in list(ACTIVATIONS):
        raise InvalidValueError(
            expected=f"an activation from {', '.join(ACTIVATIONS)}",
            got=repr(activation),
            cure="use one of these",
        )
    if skip and all(before != after for before, after in pairwise(hidden)):
        raise InvalidValueError(
            expected="neighbouring hidden layers with the same number of units, for skip connections between them",
            got=f"hidden={tuple(hidden)}",
            cure="skip=False, or layers such as (300, 300)",
        )
    return list(hidden)
