# /// script
# dependencies = ["braindecode==1.8.1"]
# ///
"""EEG classifiers of Braindecode in a LightningModule; some of their layers are parametrized."""

import lightning.pytorch as pl
import torch
from braindecode.models import EEGNet, ShallowFBCSPNet
from common import Recount, train_and_resume


class Classifier(pl.LightningModule):
    def __init__(self, kind: type[torch.nn.Module]) -> None:
        super().__init__()
        self.model = kind(n_chans=8, n_outputs=2, n_times=256, sfreq=128, drop_prob=0.0)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


torch.manual_seed(0)
data = torch.utils.data.TensorDataset(torch.randn(32, 8, 256), torch.arange(32) % 2)
loader = torch.utils.data.DataLoader(data, batch_size=8)
recount = None
for kind in (ShallowFBCSPNet, EEGNet):
    recount = Recount("ShallowFBCSPNet and EEGNet, some layers of which are parametrized", add_to=recount)
    recount.check_trained(train_and_resume(recount, lambda kind=kind: Classifier(kind), loader))
recount.report()
