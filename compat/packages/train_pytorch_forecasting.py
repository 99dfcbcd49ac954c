# /// script
# dependencies = ["pytorch-forecasting==1.8.0"]
# ///
"""DeepAR of pytorch-forecasting: an LSTM, most of whose weights the callback leaves dense unless it is told."""

import numpy as np
import pandas as pd
from common import Recount, train_and_resume
from pytorch_forecasting import DeepAR, TimeSeriesDataSet

length = 60
frame = pd.DataFrame(
    {
        "time": np.tile(np.arange(length), 4),
        "series": np.repeat(list("abcd"), length),
        "value": np.sin(np.arange(4 * length) / 5) + np.random.default_rng(0).normal(0, 0.1, 4 * length) + 2,
    }
)
data = TimeSeriesDataSet(
    frame,
    time_idx="time",
    target="value",
    group_ids=["series"],
    max_encoder_length=12,
    max_prediction_length=3,
    time_varying_unknown_reals=["value"],
)
loader = data.to_dataloader(train=False, batch_size=32)
recount = Recount("DeepAR, with its LSTM", include=["Linear", "LSTM"])

train_and_resume(
    recount, lambda: DeepAR.from_dataset(data, hidden_size=24, rnn_layers=2, dropout=0, learning_rate=1e-2), loader
)

recount.report()
