"""Wide residual networks for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu

from lightning_sparse.models.sizes import check_count, check_images, scaled
from lightning_sparse.validation.errors import InvalidValueError
from lightning_sparse.validation.numbers import is_real


class WideResNet(nn.Module):
    """Wide residual network WRN-depth-k; 1,467,610 parameters for WRN-28-2, the default.

    Zagoruyko and Komodakis, "Wide Residual Networks" (2016, arXiv 1605.07146), as used for sparse momentum (Dettmers
    and Zettlemoyer, 2019, Table 2 and Figure 2):

    ========== ========== =============================================
    network    parameters weights of convolutional and linear layers
    ========== ========== =============================================
    WRN-28-2    1,467,610  1,463,984
    WRN-22-8   17,158,106 17,147,312
    WRN-16-8   10,961,370 10,954,160
    WRN-16-10  17,116,634 17,107,632
    ========== ========== =============================================

    A 3 x 3 convolution to 16 channels, three groups of ``(depth - 4) / 6`` blocks with ``16 k``, ``32 k`` and
    ``64 k`` channels, of which the second and third halve the resolution; batch normalization, ReLU, the mean over
    positions, and a linear layer. Made for images of 32 x 32, whose last feature maps are 8 x 8. Convolutions have
    no bias and are initialized from a normal distribution of standard deviation ``sqrt(2 / (out * kernel ** 2))``;
    the linear layer's bias starts at zero, all else is initialized as in PyTorch. Both are as in the code of sparse
    momentum.

    Args:
        depth: Number of convolutions, those of the shortcuts included: 6 n + 4 for n >= 1 blocks per group.
        widen_factor: Factor k, >= 1.
        dropout: Probability in [0, 1) with which a value is dropped between the two convolutions of a block.
            The default is from the code of sparse momentum; the paper doesn't mention dropout.
        num_classes: Number of outputs.
        in_channels: Channels of an image.
        width: Factor > 0 of the channels of all convolutions, also the first, rounded.

    Raises:
        ValueError: If a number is outside its range.
    """

    def __init__(
        self,
        depth: int = 28,
        widen_factor: int = 2,
        dropout: float = 0.3,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        _check_depth(depth)
        check_count("widen_factor", widen_factor)
        _check_dropout(dropout)
        check_count("num_classes", num_classes)
        check_count("in_channels", in_channels)
        self.in_channels = in_channels
        stem, first, second, third = (
            scaled(channels, width) for channels in (16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor)
        )
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=3, padding=1, bias=False)
        self.group1 = _group(blocks, stem, first, 1, dropout)
        self.group2 = _group(blocks, first, second, 2, dropout)
        self.group3 = _group(blocks, second, third, 2, dropout)
        self.bn = nn.BatchNorm2d(third)
        self.fc = nn.Linear(third, num_classes)
        self._initialize()

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, in_channels, height, width)`` to logits ``(batch, num_classes)``.

        Raises:
            ValueError: If the images have another shape.
        """
        check_images(images, self.in_channels)
        features = self.group3(self.group2(self.group1(self.conv1(images))))
        features = adaptive_avg_pool2d(relu(self.bn(features)), 1)
        return self.fc(features.flatten(1))  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)


class WideBlock(nn.Module):
    """Two 3 x 3 convolutions, each after batch normalization and ReLU, added to the block's input.

    Where resolution or channels change, a 1 x 1 convolution of the normalized, rectified input takes the place of
    the input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution.
        dropout: Probability in [0, 1) with which a value is dropped before the second convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, in_channels, height, width)`` to ``(batch, out_channels, height / stride, width / stride)``."""
        active = relu(self.bn1(features))
        change: Tensor = self.conv2(self.dropout(relu(self.bn2(self.conv1(active)))))
        return change + (features if self.shortcut is None else self.shortcut(active))


def _group(blocks: int, in_channels: int, out_channels: int, stride: int, dropout: float) -> nn.Sequential:
    first = WideBlock(in_channels, out_channels, stride, dropout)
    return nn.Sequential(first, *(WideBlock(out_channels, out_channels, 1, dropout) for _ in range(blocks - 1)))


def _check_depth(depth: int) -> None:
    check_count("depth", depth)
    if depth < 10 or depth % 6 != 4:
        raise InvalidValueError(
            expected="a depth of 6 n + 4 for n >= 1 blocks per group",
            got=depth,
            cure="10, 16, 22, 28, 34 or 40",
        )


def _check_dropout(dropout: float) -> None:
    if not is_real(dropout, 0, 1) or dropout == 1:
        raise InvalidValueError(
            expected="dropout in [0, 1)",
            got=repr(dropout),
            cure="0 for none",
        )
