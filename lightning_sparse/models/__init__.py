"""The networks of the published experiments, and the LightningModule that trains them."""

from lightning_sparse.models.alexnet import AlexNet
from lightning_sparse.models.factory import create_model, model_names
from lightning_sparse.models.image_classifier import ImageClassifier, paper_sgd
from lightning_sparse.models.lenet import LeNet5Caffe, LeNet300100
from lightning_sparse.models.mlp import MLP
from lightning_sparse.models.resnet import ResNet50
from lightning_sparse.models.vgg import VGG16
from lightning_sparse.models.wide_resnet import WideResNet

__all__ = [
    "MLP",
    "VGG16",
    "AlexNet",
    "ImageClassifier",
    "LeNet5Caffe",
    "LeNet300100",
    "ResNet50",
    "WideResNet",
    "create_model",
    "model_names",
    "paper_sgd",
]
