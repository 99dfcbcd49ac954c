# /// script
# dependencies = ["darts==0.48.1"]
# ///
"""Temporal convolutions and N-BEATS of Darts, each fitted twice."""

import numpy as np
from common import Recount
from darts import TimeSeries
from darts.models import NBEATSModel, TCNModel

series = TimeSeries.from_values(np.sin(np.arange(120) / 5).astype("float32"))
recount = None
for kind, options in (
    (TCNModel, {"num_filters": 8}),
    (NBEATSModel, {"num_stacks": 2, "num_blocks": 1, "layer_widths": 32}),
):
    recount = Recount("TCN and N-BEATS, each fitted twice", add_to=recount)
    trainer = {"accelerator": "cpu", "logger": False, "callbacks": recount.callbacks}
    model = kind(
        input_chunk_length=12, output_chunk_length=3, n_epochs=3, random_state=0, pl_trainer_kwargs=trainer, **options
    )
    for _ in range(2):
        model.fit(series)
    recount.check_trained(model.model)
    recount.check("predicts", len(model.predict(3)) == 3)
recount.report()
