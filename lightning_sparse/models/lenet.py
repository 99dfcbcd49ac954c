"""The two LeNets of the sparse learning literature."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from lightning_sparse.models.sizes import check_count, check_images, flattened, scaled


class LeNet300100(nn.Module):
    """LeNet-300-100: two hidden layers of 300 and 100 ReLU units; 266,610 parameters, 266,200 of them weights.

    The fully connected network of LeCun et al., "Gradient-Based Learning Applied to Document Recognition"
    (1998). Initialized as PyTorch initializes linear layers.

    Args:
        in_features: Pixels times channels of an image; 784 for MNIST.
        num_classes: Number of outputs.
        width: Factor > 0 of the hidden layers' units, rounded.

    Raises:
        ValueError: If a number is outside its range.
    """

    def __init__(self, in_features: int = 784, num_classes: int = 10, width: float = 1.0) -> None:
        super().__init__()
        check_count("in_features", in_features)
        check_count("num_classes", num_classes)
        first, second = scaled(300, width), scaled(100, width)
        self.in_features = in_features
        self.fc1 = nn.Linear(in_features, first)
        self.fc2 = nn.Linear(first, second)
        self.fc3 = nn.Linear(second, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, *any)`` to logits ``(batch, num_classes)``.

        Raises:
            ValueError: If an image does not have ``in_features`` values.
        """
        features = flattened(images, self.in_features)
        hidden = relu(self.fc2(relu(self.fc1(features))))
        return self.fc3(hidden)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any


class LeNet5Caffe(nn.Module):
    """Caffe's LeNet-5: two convolutions and two linear layers; 431,080 parameters, 430,500 of them weights.

    Convolutions 5 x 5 without padding to 20 and 50 channels, each with ReLU and 2 x 2 max pooling; 500 hidden
    ReLU units. Caffe's own network has no ReLU after the convolutions; this one has, like the networks of SNIP
    (Lee et al., 2019) and sparse momentum (Dettmers and Zettlemoyer, 2019) that results are compared with.
    Initialized as PyTorch initializes its layers.

    Args:
        in_channels: Channels of an image; 1 for MNIST.
        num_classes: Number of outputs.
        width: Factor > 0 of the hidden layers' channels and units, rounded.

    Raises:
        ValueError: If a number is outside its range.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, width: float = 1.0) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("num_classes", num_classes)
        first, second, hidden = scaled(20, width), scaled(50, width), scaled(500, width)
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, first, kernel_size=5)
        self.conv2 = nn.Conv2d(first, second, kernel_size=5)
        self.fc1 = nn.Linear(second * 4 * 4, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(batch, in_channels, 28, 28)`` to logits ``(batch, num_classes)``.

        Raises:
            ValueError: If the images have another shape.
        """
        check_images(images, self.in_channels, 28)
        # ReLU after pooling equals pooling after ReLU, for a quarter of the work.
        features = relu(max_pool2d(self.conv1(images), 2))
        features = relu(max_pool2d(self.conv2(features), 2))
        hidden = relu(self.fc1(features.flatten(1)))
        return self.fc2(hidden)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any
