# /// script
# dependencies = ["pytorch-metric-learning==2.9.0"]
# ///
"""An embedding with the losses of PyTorch Metric Learning, one of which has weights and an optimizer of its own."""

import lightning.pytorch as pl
import torch
from common import Recount, train_and_resume
from pytorch_metric_learning.losses import ArcFaceLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import nn


class Embedding(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 16))
        self.miner, self.loss = MultiSimilarityMiner(), ArcFaceLoss(num_classes=4, embedding_size=16)

    def training_step(self, batch: list[torch.Tensor]) -> None:
        found = self.network(batch[0])
        self.manual_backward(self.loss(found, batch[1], self.miner(found, batch[1])))
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(self.network.parameters(), lr=1e-3),
            torch.optim.SGD(self.loss.parameters(), lr=0.1, momentum=0.9),
        ]


torch.manual_seed(0)
data = torch.utils.data.TensorDataset(torch.randn(64, 12), torch.arange(64) % 4)
loader = torch.utils.data.DataLoader(data, batch_size=16)
recount = Recount("embedding with ArcFace, two optimizers, manual optimization")
recount.check_trained(train_and_resume(recount, Embedding, loader))
recount.report()
