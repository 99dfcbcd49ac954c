# /// script
# dependencies = ["neuralforecast==3.3.0"]
# ///
"""An LSTM and N-HiTS of NeuralForecast, trained by numbers of steps."""

import numpy as np
import pandas as pd
from common import Recount
from neuralforecast import NeuralForecast
from neuralforecast.models import LSTM, NHITS

times = pd.date_range("2024-01-01", periods=80)
frame = pd.concat(
    pd.DataFrame({"unique_id": name, "ds": times, "y": np.sin(np.arange(80) / 5 + shift)})
    for shift, name in enumerate("abcd")
)
recount = None
for kind, options, chosen in (
    (NHITS, {"mlp_units": [[32, 32]] * 3}, {}),
    (LSTM, {"encoder_hidden_size": 24, "decoder_hidden_size": 24}, {"include": ["Linear", "LSTM"]}),
):
    recount = Recount("N-HiTS, and an LSTM with its recurrent weights", add_to=recount, every_n_steps=10, **chosen)
    model = kind(
        h=3, input_size=12, max_steps=40, accelerator="cpu", logger=False, callbacks=recount.callbacks, **options
    )
    forecast = NeuralForecast(models=[model], freq="D")
    forecast.fit(frame)
    (recount,) = (each for each in forecast.models[0].trainer_kwargs["callbacks"] if isinstance(each, Recount))
    recount.check_trained(forecast.models[0])
    recount.check("predicts", len(forecast.predict()) == 12)
recount.report()
