# /// script
# dependencies = ["monai==1.6.1"]
# ///
"""A three-dimensional U-Net of MONAI, in bfloat16, with accumulated and clipped gradients."""

import lightning.pytorch as pl
import torch
from common import Recount, train_and_resume
from monai.losses import DiceCELoss
from monai.networks.nets import UNet


class Segmenter(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = UNet(3, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2), num_res_units=1)
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return self.loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


torch.manual_seed(0)
scans = torch.randn(16, 1, 16, 16, 16)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(scans, (scans > 0).float()), batch_size=2)
recount = Recount("U-Net in three dimensions, bfloat16, accumulated and clipped gradients")
options = {"precision": "bf16-mixed", "accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
recount.check_trained(train_and_resume(recount, Segmenter, loader, **options))
recount.report()
