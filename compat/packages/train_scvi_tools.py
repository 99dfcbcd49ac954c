# /// script
# dependencies = ["scvi-tools==1.4.2"]
# ///
"""SCVI of scvi-tools, whose `train()` makes a new LightningModule of the same network each time."""

import anndata
import numpy as np
import scvi
from common import Recount

scvi.settings.seed = 0
counts = np.random.default_rng(0).poisson(1.0, (200, 50)).astype("float32")
cells = anndata.AnnData(counts)
scvi.model.SCVI.setup_anndata(cells)
model = scvi.model.SCVI(cells, n_hidden=32, n_latent=5)
recount = Recount("SCVI, trained twice")
for _ in range(2):
    model.train(max_epochs=3, batch_size=50, accelerator="cpu", logger=False, callbacks=recount.callbacks)
recount.check_trained(recount.sparse.network.model)
recount.check("predicts", model.get_latent_representation().shape == (200, 5))
recount.report()
