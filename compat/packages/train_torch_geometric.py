# /// script
# dependencies = ["torch-geometric==2.8.1"]
# ///
"""Graph networks of PyTorch Geometric on its LightningDataset; their linear layers are a class of that package."""

import lightning.pytorch as pl
import torch
from common import Recount, train_and_resume
from torch_geometric.data import Data
from torch_geometric.data.lightning import LightningDataset
from torch_geometric.nn import GCN, GraphSAGE, global_mean_pool


class GraphClassifier(pl.LightningModule):
    def __init__(self, kind: type[torch.nn.Module]) -> None:
        super().__init__()
        self.network = kind(in_channels=5, hidden_channels=24, num_layers=3)
        self.head = torch.nn.Linear(24, 2)

    def training_step(self, batch: Data) -> torch.Tensor:
        nodes = self.network(batch.x, batch.edge_index)
        return torch.nn.functional.cross_entropy(self.head(global_mean_pool(nodes, batch.batch)), batch.y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class InOrder(LightningDataset):
    def train_dataloader(self) -> object:
        return self.dataloader(self.train_dataset, shuffle=False)


torch.manual_seed(0)
graphs = [
    Data(x=torch.randn(8, 5), edge_index=torch.randint(8, (2, 20)), y=torch.tensor([label % 2])) for label in range(40)
]
recount = Recount("GCN and GraphSAGE with the package's own linear class", include=["Linear"])
for kind in (GCN, GraphSAGE):
    recount = Recount(recount.trained, add_to=recount, include=["Linear"])
    data = InOrder(graphs, batch_size=10, num_workers=0)
    recount.check_trained(train_and_resume(recount, lambda kind=kind: GraphClassifier(kind), data))
recount.report()
