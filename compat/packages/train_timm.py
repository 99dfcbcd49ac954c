# /// script
# dependencies = ["timm==1.0.31"]
# ///
"""Image classifiers of timm: a ResNet, and a vision transformer with an optimizer of timm."""

import lightning.pytorch as pl
import timm
import timm.optim
import torch
from common import Recount, train_and_resume


class Classifier(pl.LightningModule):
    def __init__(self, model: torch.nn.Module, optimizer: str) -> None:
        super().__init__()
        self.model, self.optimizer = model, optimizer

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return timm.optim.create_optimizer_v2(self.model, opt=self.optimizer, lr=1e-3, weight_decay=0.01)


def resnet() -> Classifier:
    model = timm.create_model("resnet10t", num_classes=4)
    return Classifier(model, "sgd")


def transformer() -> Classifier:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return Classifier(timm.models.vision_transformer.VisionTransformer(**sizes, num_classes=4), "lamb")


images = torch.utils.data.TensorDataset(torch.randn(32, 3, 32, 32), torch.arange(32) % 4)
loader = torch.utils.data.DataLoader(images, batch_size=8)
recount = None
for make_module in (resnet, transformer):
    recount = Recount("ResNet-10t with SGD, a small vision transformer with LAMB", add_to=recount)
    recount.check_trained(train_and_resume(recount, make_module, loader))
recount.report()
