# /// script
# dependencies = ["lightly==1.6.0"]
# ///
"""SimCLR and BYOL with the parts of Lightly: projection heads, losses, and a second network that follows the first."""

import copy

import lightning.pytorch as pl
import torch
from common import Recount, train_and_resume
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead, SimCLRProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import nn


def backbone() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


class SimCLR(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head, self.loss = backbone(), SimCLRProjectionHead(32, 32, 16), NTXentLoss()

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return self.loss(*(self.head(self.backbone(view)) for view in batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class BYOL(SimCLR):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.predictor = BYOLProjectionHead(32, 32, 16), BYOLPredictionHead(16, 16, 16)
        self.loss = NegativeCosineSimilarity()
        self.teacher = copy.deepcopy(nn.Sequential(self.backbone, self.head))
        deactivate_requires_grad(self.teacher)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        update_momentum(nn.Sequential(self.backbone, self.head), self.teacher, m=0.9)
        first, second = batch
        return self.loss(self.predictor(self.head(self.backbone(first))), self.teacher(second).detach())


views = torch.utils.data.TensorDataset(torch.randn(32, 3, 16, 16), torch.randn(32, 3, 16, 16))
loader = torch.utils.data.DataLoader(views, batch_size=8)
recount = None
for kind in (SimCLR, BYOL):
    recount = Recount("SimCLR, and BYOL with its momentum encoder", add_to=recount)
    recount.check_trained(train_and_resume(recount, kind, loader))
recount.report()
