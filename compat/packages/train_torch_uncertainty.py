# /// script
# dependencies = ["torch-uncertainty==0.13.0", "huggingface-hub==2.4.0", "timm==1.0.31"]
# ///
"""A plain network and packed ensembles in the classification routine of TorchUncertainty."""

import torch
from common import Recount, train_and_resume
from torch import nn
from torch_uncertainty.layers import PackedLinear
from torch_uncertainty.models.mlp import mlp
from torch_uncertainty.routines import ClassificationRoutine
from torch_uncertainty.transforms import RepeatTarget


def plain() -> ClassificationRoutine:
    model = mlp(in_features=12, num_outputs=3, hidden_dims=[32, 32])
    return ClassificationRoutine(model, 3, nn.CrossEntropyLoss(), optim_recipe=torch.optim.Adam(model.parameters()))


def packed() -> ClassificationRoutine:
    options = {"alpha": 2, "num_estimators": 4}
    model = nn.Sequential(
        PackedLinear(12, 32, **options, first=True), nn.ReLU(), PackedLinear(32, 3, **options, last=True)
    )
    return ClassificationRoutine(
        model,
        3,
        nn.CrossEntropyLoss(),
        is_ensemble=True,
        format_batch_fn=RepeatTarget(4),
        optim_recipe=torch.optim.Adam(model.parameters()),
    )


torch.manual_seed(0)
inputs = torch.randn(64, 12)
data = torch.utils.data.TensorDataset(inputs, (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long())
loader = torch.utils.data.DataLoader(data, batch_size=16)
recount = Recount("MLP, and packed ensembles, whose layers are classes of the package")
recount.check_trained(train_and_resume(recount, plain, loader))
recount = Recount(recount.trained, add_to=recount, include="PackedLinear")
recount.check_trained(train_and_resume(recount, packed, loader))
recount.report()
