# /// script
# dependencies = ["deeptab==2.1.0"]
# ///
"""Classifiers of DeepTab, which restores the best weights in place after each fit."""

import tempfile

import numpy as np
import pandas as pd
import torch
from common import Recount
from deeptab.models import MLPClassifier, ResNetClassifier

draw = np.random.default_rng(0)
table = pd.DataFrame(draw.normal(size=(200, 6)), columns=list("abcdef"))
labels = (table["a"] * table["b"] > 0).astype(int).to_numpy()
recount = None
for kind in (MLPClassifier, ResNetClassifier):
    words = "MLP and ResNet for tables; the best weights are restored in place, then trained on with their masks"
    recount = Recount(words, add_to=recount)
    with tempfile.TemporaryDirectory() as folder:
        model = kind(random_state=0)
        options = {"batch_size": 32, "accelerator": "cpu", "logger": False}
        model.fit(table, labels, max_epochs=6, lr=0.05, checkpoint_path=folder, callbacks=recount.callbacks, **options)
        recount.check_best(recount.sparse.network.model)
        again = recount.resumed(recount.best, masks_from=torch.load(recount.best, weights_only=False))
        model.fit(table, labels, max_epochs=3, rebuild=False, callbacks=again.callbacks, **options)
    recount.check("predicts", len(model.predict(table)) == 200)
recount.report()
