"""VGG16 for small images, as the sparse learning literature uses it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lightning_sparse.models.sizes import check_count, check_images, scaled
from lightning_sparse.validation.errors import InvalidValueError

# Channels and number of convolutions of each block; a pooling ends it.
_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_HIDDEN = 512
# Of each variant: kernel size of a block's third convolution, side of the last feature map for 32 x 32 images, number
# of hidden linear layers.
_VARIANTS = {"C": (1, 2, 2), "D": (3, 1, 2), "like": (3, 1, 1)}


class VGG16(nn.Module):
    """VGG16 for images of 32 x 32; "C" has 11,323,466 parameters, "D" 15,255,626 and "like" 14,991,946.

    Of these, 11,307,712, 15,239,872 and 14,977,728 are weights of convolutional and linear layers. Thirteen
    convolutions, each followed by batch normalization and ReLU, in five blocks that end with 2 x 2 max pooling;
    then linear layers of 512 units, each followed by ReLU and, where the original has dropout, batch
    normalization. All convolutions are padded by 1, also the 1 x 1 ones of "C": its maps grow by 2, and the
    classifier sees 2048 features of 2 x 2 instead of 512.

    The networks of Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition"
    (2015, arXiv 1409.1556; C and D in Table 1), as changed for SNIP (Lee et al., 2019, arXiv 1810.02340) and used
    for sparse momentum (Dettmers and Zettlemoyer, 2019, Table 2). Initialized as PyTorch initializes its layers.

    Args:
        variant: "D" has 3 x 3 convolutions and two hidden linear layers; in "C", a block's third convolution is
            1 x 1; "like" is "D" with one hidden linear layer.
        num_classes: Number of outputs.
        in_channels: Channels of an image.
        width: Factor > 0 of the hidden layers' channels and units, rounded.

    Raises:
        ValueError: If there is no such variant, or a number is outside its range.
    """

    def __init__(
        self, variant: Literal["C", "D", "like"] = "D", num_classes: int = 10, in_channels: int = 3, width: float = 1.0
    ) -> None:
        super().__init__()
        if variant not in list(_VARIANTS):
            raise InvalidValueError(
                expected="a variant of VGG16: 'C', 'D' or 'like'",
                got=repr(variant),
                cure="use one of these",
            )
        check_count("num_classes", num_classes)
        check_count("in_channels", in_channels)
        self.in_channels = in_channels
        third_kernel, side, hidden_layers = _VARIANTS[variant]
        self.features = _features(in_channels, width, third_kernel)
        hidden, inputs = scaled(_HIDDEN, width), side * side * scaled(_BLOCKS[-1][0], width)
        layers: list[nn.Module] = []
        for _ in range(hidden_layers):
            layers += [nn.Linear(inputs, hidden), nn.ReLU(), nn.BatchNorm1d(hidden)]
            inputs = hidden
        self.classifier = nn.Sequential(*layers, nn.Linear(inputs, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, in_channels, 32, 32)`` to logits ``(batch, num_classes)``.

        Raises:
            ValueError: If the images have another shape.
        """
        check_images(images, self.in_channels, 32)
        return self.classifier(self.features(images).flatten(1))  # type: ignore[no-any-return]  # __call__ returns Any


def _features(channels: int, width: float, third_kernel: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for published, convolutions in _BLOCKS:
        out = scaled(published, width)
        for position in range(convolutions):
            kernel = third_kernel if position == 2 else 3
            layers += [nn.Conv2d(channels, out, kernel, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
