# /// script
# dependencies = ["deeptab==2.1.0"]
# ///
"""Classifiers of DeepTab, which restores the best weights in place after each fit."""

import tempfile

import numpy as np
import pandas as pd
from common import Recount
from deeptab.models import MLPClassifier, ResNetClassifier

draw = np.random.default_rng(0)
table = pd.DataFrame(draw.normal(size=(200, 6)), columns=list("abcdef"))
labels = (table["a"] * table["b"] > 0).astype(int).to_numpy()
recount = None
for kind in (MLPClassifier, ResNetClassifier):
    recount = Recount(
        "MLP and ResNet for tables; the best weights are restored in place after training", add_to=recount
    )
    with tempfile.TemporaryDirectory() as folder:
        model = kind(random_state=0)
        model.fit(
            table,
            labels,
            max_epochs=4,
            batch_size=32,
            checkpoint_path=folder,
            accelerator="cpu",
            logger=False,
            callbacks=recount.callbacks,
        )
        recount.check_best(recount.sparse.network.model)
    recount.check("predicts", len(model.predict(table)) == 200)
recount.report()
