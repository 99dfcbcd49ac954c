#!/usr/bin/env bash
# Lightning 2.6.6: a run that resumes from a checkpoint saved after the last step of an epoch and before the epoch's end,
# as ModelCheckpoint saves them with every_n_train_steps or train_time_interval.
#
# One would guess: the epoch ends first, with its validation and its hooks, and the next begins; so a callback that ends
# training after two epochs ends it after two.
# Seen: neither validation nor on_train_epoch_end of that epoch are ever run. What is resumed from a checkpoint one step
# earlier stops after two epochs, from this one after three. The learning rate schedule is not affected.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 lightning==2.6.6 numpy==2.3.5

cat >"$work/resume.py" <<'PYTHON'
import logging
import sys
import warnings

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
data = DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=2)  # 4 steps an epoch
quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAfterTwo(Callback):
    def __init__(self):
        self.validated, self.ended = [], []

    def on_validation_end(self, trainer, pl_module):
        self.validated.append(trainer.current_epoch)

    def on_train_epoch_end(self, trainer, pl_module):
        self.ended.append(trainer.current_epoch)
        trainer.should_stop = trainer.current_epoch + 1 >= 2


def fit(resume=None, **options):
    stop = StopAfterTwo()
    trainer = Trainer(max_epochs=9, num_sanity_val_steps=0, callbacks=[stop, *options.pop("callbacks", [])], **quiet, **options)
    trainer.fit(Model(), data, data, ckpt_path=resume)
    return f"steps {trainer.global_step}, validated {stop.validated}, ended {stop.ended}"


folder = sys.argv[1]
save = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
print("not interrupted:", fit(callbacks=[save]))
for step in (7, 8):
    print(f"resumed after step {step}:", fit(f"{folder}/step={step}.ckpt", enable_checkpointing=False))
PYTHON

seen=$("$work/env/bin/python" "$work/resume.py" "$work/saved" 2>/dev/null | grep -E '^(not|resumed)')
printf '%s\n' "$seen"
expected='not interrupted: steps 8, validated [0, 1], ended [0, 1]
resumed after step 7: steps 8, validated [1], ended [1]
resumed after step 8: steps 12, validated [2], ended [2]'
[ "$seen" = "$expected" ] || { echo "CHANGED"; exit 1; }
echo "as described"
