# /// script
# dependencies = ["gluonts[torch]==0.17.0"]
# ///
"""DeepAR of GluonTS, which loads the best checkpoint into a new module after training."""

import lightning.pytorch as pl
import numpy as np
from common import Recount
from gluonts.dataset.common import ListDataset
from gluonts.torch import DeepAREstimator

pl.seed_everything(0)
series = [{"start": "2024-01-01", "target": np.sin(np.arange(60) / 5 + shift).tolist()} for shift in range(4)]
data = ListDataset(series, freq="D")
recount = Recount("DeepAR, with its LSTM; the best checkpoint is loaded afterwards", include=["Linear", "LSTM"])
estimator = DeepAREstimator(
    freq="D",
    prediction_length=3,
    context_length=10,
    hidden_size=24,
    num_batches_per_epoch=8,
    trainer_kwargs={"max_epochs": 4, "accelerator": "cpu", "logger": False, "callbacks": recount.callbacks},
)
predictor = estimator.train(data, validation_data=data)
recount.check_best(predictor.prediction_net)
if "callbacks" not in estimator.trainer_kwargs:
    recount.note("it takes the callbacks out of the estimator: a second training has none")
recount.check("predicts", len(list(predictor.predict(data))) == 4)
recount.report()
