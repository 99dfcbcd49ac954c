#!/usr/bin/env bash
# Lightning 2.6.6: the callbacks LearningRateFinder and BatchSizeFinder in a run that resumes from a checkpoint.
#
# One would guess: fit(model, ckpt_path=...) continues the run, whatever callbacks are beside it; a tuner that trains a
# few steps first puts back what it found, and then the run goes on from the checkpoint.
# Seen: with either callback, the run has the weights of the checkpoint but begins at epoch 0 and step 0, with an
# optimizer that has no state, though the call names the checkpoint. It trains all its epochs once more. The tuner saves
# what is there before the optimizers and loops were restored, and puts that back; nothing is said of it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 lightning==2.6.6

cat >"$work/resume.py" <<'PYTHON'
import logging
import sys
import warnings

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset

for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.pytorch.tuner.lr_finder"):
    logging.getLogger(name).setLevel(logging.ERROR)
warnings.simplefilter("ignore")


class Run(BoringModel):
    def __init__(self):
        super().__init__()
        self.lr, self.batch_size, self.starts = 0.01, 4, []

    def train_dataloader(self):
        return torch.utils.data.DataLoader(RandomDataset(32, 64), batch_size=self.batch_size)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    def on_train_start(self):
        trainer, with_momentum = self.trainer, len(self.trainer.optimizers[0].state)
        self.starts.append(
            f"epoch {trainer.current_epoch}, step {trainer.global_step}, {with_momentum} parameters with momentum, "
            f"weights {float(self.layer.weight.sum()):.4f}"
        )


def train(max_epochs, *callbacks, **options):
    trainer = pl.Trainer(
        callbacks=list(callbacks), max_epochs=max_epochs, limit_val_batches=0, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=sys.argv[1],
    )
    model = Run()
    trainer.fit(model, **options)
    return trainer, model


saved = f"{sys.argv[1]}/saved.ckpt"
trainer, first = train(1)
trainer.save_checkpoint(saved)
weights = f"{float(first.layer.weight.sum()):.4f}"
tuners = {
    "no tuner": [],
    "LearningRateFinder": [LearningRateFinder(num_training_steps=12, update_attr=False)],
    "BatchSizeFinder": [BatchSizeFinder(max_trials=1, steps_per_trial=1)],
}
for name, callbacks in tuners.items():
    trainer, model = train(2, *callbacks, ckpt_path=saved)
    print(f"{name}: begins at {model.starts[-1].replace(weights, 'of the checkpoint')}")
PYTHON

seen=$("$work/env/bin/python" "$work/resume.py" "$work" 2>/dev/null)
printf '%s\n' "$seen"
expected='no tuner: begins at epoch 1, step 16, 2 parameters with momentum, weights of the checkpoint
LearningRateFinder: begins at epoch 0, step 0, 0 parameters with momentum, weights of the checkpoint
BatchSizeFinder: begins at epoch 0, step 0, 0 parameters with momentum, weights of the checkpoint'
[ "$seen" = "$expected" ] || { echo "CHANGED"; exit 1; }
echo "as described"
