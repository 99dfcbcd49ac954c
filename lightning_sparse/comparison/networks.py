"""Networks of a width, for studies."""

from __future__ import annotations

from torch import nn

from lightning_sparse.models import MLP


def mlp(
    width: int,
    *,
    depth: int,
    activation: str,
    batch_norm: bool,
    skip: bool,
    in_features: int = 784,
    num_classes: int = 10,
) -> nn.Module:
    """Return the multilayer perceptron of Tessera et al. (2021): hidden layers of one width, initialized as there.

    Weights are normal with standard deviation sqrt(2 / fan-in) (He et al., 2015), biases zero; the paper leaves the
    initialization open, and this one is the usual one for its networks.

    Args:
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        activation: Name of the activation, see `MLP`.
        batch_norm: Whether hidden layers have batch normalization.
        skip: Whether hidden layers but the first have skip connections.
        in_features: Pixels times channels of an image.
        num_classes: Number of classes.
    """
    network = MLP(in_features, [width] * depth, num_classes, activation, batch_norm, skip)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return network
