# /// script
# dependencies = ["pytorch-tabular==1.2.0", "requests==2.34.2"]
# ///
"""A network for tables of PyTorch Tabular, which loads the best weights after training."""

import tempfile

import numpy as np
import pandas as pd
from common import Recount
from pytorch_tabular import TabularModel
from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig
from pytorch_tabular.models import CategoryEmbeddingModelConfig

draw = np.random.default_rng(0)
table = pd.DataFrame(draw.normal(size=(200, 4)), columns=list("abcd")).assign(kind=draw.choice(list("xyz"), 200))
table["target"] = (table["a"] * table["b"] > 0).astype(int)
recount = Recount("category embeddings and an MLP; the best weights are loaded after training")
with tempfile.TemporaryDirectory() as folder:
    options = {"max_epochs": 4, "batch_size": 32, "accelerator": "cpu", "checkpoints_path": folder}
    model = TabularModel(
        data_config=DataConfig(target=["target"], continuous_cols=list("abcd"), categorical_cols=["kind"]),
        model_config=CategoryEmbeddingModelConfig(task="classification", layers="32-32"),
        optimizer_config=OptimizerConfig(),
        trainer_config=TrainerConfig(**options, progress_bar="none"),
        verbose=False,
    )
    model.fit(train=table, callbacks=recount.callbacks)
    recount.check_best(recount.sparse.network.model)
recount.check("predicts", len(model.predict(table)) == 200)
recount.report()
