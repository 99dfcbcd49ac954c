"""ResNet-50 for ImageNet, at any width."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d, relu

from lightning_sparse.models.sizes import check_count, check_images, scaled

# Of each stage, the channels inside its blocks and the number of blocks; all but the first halve the resolution.
_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
# A block's output has this many times its inner channels.
_EXPANSION = 4


class ResNet50(nn.Module):
    """ResNet-50 for images of 224 x 224; 25,557,032 parameters, 25,502,912 of them weights of its layers.

    He et al., "Deep Residual Learning for Image Recognition" (2016, arXiv 1512.03385; Table 1). Stride 2 is in the
    3 x 3 convolution of a block, as for sparse momentum on ImageNet (Dettmers and Zettlemoyer, 2019, section 3.3) and
    in torchvision, whose ``resnet50`` computes the same function, names its parameters alike and, from the same random
    state, initializes them alike: checkpoints are interchangeable. Here, the width of every layer can be scaled;
    torchvision's ``width_per_group`` scales only the inside of the blocks.

    Args:
        num_classes: Number of outputs.
        in_channels: Channels of an image.
        width: Factor > 0 of the channels of all convolutions, rounded; a block's output has 4 times the rounded
            channels inside it.

    Raises:
        ValueError: If a number is outside its range.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        check_count("in_channels", in_channels)
        self.in_channels = in_channels
        stem = scaled(64, width)
        self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        inner = [scaled(channels, width) for channels, _ in _STAGES]
        outer = [stem, *(_EXPANSION * channels for channels in inner)]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(blocks, outer[stage], inner[stage], stride=1 if stage == 0 else 2)
            for stage, (_, blocks) in enumerate(_STAGES)
        )
        self.fc = nn.Linear(outer[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, in_channels, height, width)`` to logits ``(batch, num_classes)``.

        Raises:
            ValueError: If the images have another shape.
        """
        check_images(images, self.in_channels)
        features = max_pool2d(relu(self.bn1(self.conv1(images))), kernel_size=3, stride=2, padding=1)
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return self.fc(adaptive_avg_pool2d(features, 1).flatten(1))  # type: ignore[no-any-return]  # __call__: Any


class Bottleneck(nn.Module):
    """Convolutions 1 x 1, 3 x 3 and 1 x 1, each with batch normalization, added to the block's input; ReLU between.

    Where resolution or channels change, a 1 x 1 convolution with batch normalization takes the place of the input.

    Args:
        in_channels: Channels of the input.
        channels: Channels inside the block; its output has 4 times as many.
        stride: Stride of the 3 x 3 convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = _EXPANSION * channels
        # Initialized first and registered last, as in torchvision: same first weights, same order of parameters.
        downsample = None
        if stride != 1 or in_channels != out_channels:
            downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = downsample

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, in_channels, height, width)`` to ``(batch, 4 * channels, height / stride, width / stride)``."""
        change = relu(self.bn1(self.conv1(features)))
        change = relu(self.bn2(self.conv2(change)))
        change = self.bn3(self.conv3(change))
        return relu(change + (features if self.downsample is None else self.downsample(features)))


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride)
    return nn.Sequential(first, *(Bottleneck(_EXPANSION * channels, channels, 1) for _ in range(blocks - 1)))
