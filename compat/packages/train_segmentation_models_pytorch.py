# /// script
# dependencies = ["segmentation-models-pytorch==0.6.0"]
# ///
"""A U-Net of segmentation-models-pytorch, validated, with an average of its weights beside it."""

import lightning.pytorch as pl
import segmentation_models_pytorch as smp
import torch
from common import Recount
from lightning.pytorch.callbacks import EMAWeightAveraging


class Segmenter(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = smp.Unet("resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(32, 16, 8))
        self.loss = smp.losses.DiceLoss("binary")

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return self.loss(self.model(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        self.log("loss", self.loss(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


pl.seed_everything(0)
images = torch.randn(16, 3, 32, 32)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, (images[:, :1] > 0).float()), batch_size=8)
recount = Recount("U-Net with an average of its weights (EMAWeightAveraging), validated")
module = Segmenter()
average = EMAWeightAveraging(decay=0.9)
trainer = pl.Trainer(
    max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[average, *recount.callbacks]
)
trainer.fit(module, loader, loader)
recount.check_trained(module)
recount.report()
