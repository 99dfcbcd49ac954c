"""The networks of the published experiments, and the LightningModule that trains them."""

from lightning_sparse.models.image_classifier import ImageClassifier, paper_sgd
from lightning_sparse.models.lenet import LeNet5Caffe, LeNet300100

__all__ = [
    "ImageClassifier",
    "LeNet5Caffe",
    "LeNet300100",
    "paper_sgd",
]
