"""AlexNet for small images, as the sparse learning literature uses it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lightning_sparse.models.sizes import check_count, check_images, scaled
from lightning_sparse.validation.errors import InvalidValueError

# Output channels, kernel size and padding of each convolution; stride 2 in all reduces 32 x 32 to 1 x 1.
_CONVOLUTIONS = ((96, 11, 2), (256, 5, 2), (384, 3, 1), (384, 3, 1), (256, 3, 1))
_HIDDEN = {"s": 1024, "b": 2048}


class AlexNet(nn.Module):
    """AlexNet for images of 32 x 32; "s" has 5,077,066 parameters, "b" 8,501,322.

    Of these, 5,066,784 and 8,484,896 are weights of convolutional and linear layers. Five convolutions with
    stride 2 instead of pooling, and two hidden linear layers, each followed by batch normalization and ReLU.
    The network of Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks" (2012), as
    changed for SNIP (Lee et al., 2019, arXiv 1810.02340) and used for sparse momentum (Dettmers and Zettlemoyer,
    2019, Table 2). Initialized as PyTorch initializes its layers.

    Args:
        variant: "s" (small) has 1024 units in each hidden linear layer, "b" (big) 2048.
        num_classes: Number of outputs.
        in_channels: Channels of an image.
        width: Factor > 0 of the hidden layers' channels and units, rounded.

    Raises:
        ValueError: If there is no such variant, or a number is outside its range.
    """

    def __init__(
        self, variant: Literal["s", "b"] = "s", num_classes: int = 10, in_channels: int = 3, width: float = 1.0
    ) -> None:
        super().__init__()
        if variant not in list(_HIDDEN):
            raise InvalidValueError(
                expected="a variant of AlexNet: 's' or 'b'",
                got=repr(variant),
                cure="use one of these",
            )
        check_count("num_classes", num_classes)
        check_count("in_channels", in_channels)
        self.in_channels = in_channels
        layers: list[nn.Module] = []
        channels = in_channels
        for published, kernel, padding in _CONVOLUTIONS:
            out = scaled(published, width)
            layers += [nn.Conv2d(channels, out, kernel, stride=2, padding=padding), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.features = nn.Sequential(*layers)
        hidden = scaled(_HIDDEN[variant], width)
        self.classifier = nn.Sequential(
            *(nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU()),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, in_channels, 32, 32)`` to logits ``(batch, num_classes)``.

        Raises:
            ValueError: If the images have another shape.
        """
        check_images(images, self.in_channels, 32)
        return self.classifier(self.features(images).flatten(1))  # type: ignore[no-any-return]  # __call__ returns Any
