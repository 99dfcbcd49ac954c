# /// script
# dependencies = ["torchgeo==0.8.1", "requests==2.34.2"]
# ///
"""A segmentation task of TorchGeo on images of four bands; the package adds channels to a network of others."""

import lightning.pytorch as pl
import torch
from common import Recount
from torchgeo.trainers import SemanticSegmentationTask


class Patches(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(index))
        return {"image": image, "mask": (image[0] > 0).long()}


pl.seed_everything(0)
loader = torch.utils.data.DataLoader(Patches(), batch_size=4)
task = SemanticSegmentationTask("unet", "resnet18", in_channels=4, num_classes=2, lr=1e-3)
recount = Recount("U-Net on four bands, validated, with a scheduler that watches the loss")
trainer = pl.Trainer(
    max_epochs=3,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    log_every_n_steps=1,
    callbacks=recount.callbacks,
)
trainer.fit(task, loader, loader)
recount.check_trained(task)
recount.report()
