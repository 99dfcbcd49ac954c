# /// script
# dependencies = ["chemprop==2.3.1"]
# ///
"""A message-passing network of Chemprop on small molecules."""

from chemprop import data, models, nn
from common import Recount, train_and_resume

SMILES = ["C", "CC", "CCO", "c1ccccc1", "CC(=O)O", "CCN", "CCCl", "c1ccccc1O", "CC(C)C", "COC"] * 4
points = [data.MoleculeDatapoint.from_smi(text, [float(len(text))]) for text in SMILES]
dataset = data.MoleculeDataset(points)
scaler = dataset.normalize_targets()
loader = data.build_dataloader(dataset, batch_size=8, shuffle=False)


def make_module() -> models.MPNN:
    output = nn.UnscaleTransform.from_standard_scaler(scaler)
    head = nn.RegressionFFN(hidden_dim=32, input_dim=32, output_transform=output)
    return models.MPNN(nn.BondMessagePassing(d_h=32), nn.MeanAggregation(), head)


recount = Recount("message-passing network with a regression head")
recount.check_trained(train_and_resume(recount, make_module, loader))
recount.report()
