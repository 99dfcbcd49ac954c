#!/usr/bin/env bash
# Lightning 2.6.6: a Trainer with the callback OnExceptionCheckpoint, and fit(model) without ckpt_path.
#
# One would guess: the callback saves a checkpoint when a run fails; fit(model) starts from the beginning, and only
# fit(model, ckpt_path=...) resumes.
# Seen: with this callback in the Trainer, fit(model) looks for the last checkpoint itself, as with ckpt_path="last". A
# second run in the same folder starts at the step where the first one failed, though nobody asked it to. The only
# message is a warning of `.fit(ckpt_path=None)` "without a model", though there was a model.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 lightning==2.6.6

cat >"$work/twice.py" <<'PYTHON'
import logging
import sys
import warnings

import lightning.pytorch as pl
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.simplefilter("ignore")


class Run(BoringModel):
    def __init__(self, fails):
        super().__init__()
        self.fails = fails

    def on_train_start(self):
        print("first step:", self.trainer.global_step)

    def on_train_batch_start(self, batch, index):
        if self.fails and index == 2:
            raise RuntimeError("preempted")


def train(fails, *callbacks):
    trainer = pl.Trainer(
        callbacks=list(callbacks), max_epochs=1, limit_train_batches=4, limit_val_batches=0, accelerator="cpu",
        default_root_dir=sys.argv[1], logger=False, enable_progress_bar=False, enable_model_summary=False,
    )
    try:
        trainer.fit(Run(fails))
    except RuntimeError as error:
        print("failed:", error)


train(True, OnExceptionCheckpoint(sys.argv[1]))
train(False, OnExceptionCheckpoint(sys.argv[1]))
train(False)
PYTHON

seen=$("$work/env/bin/python" "$work/twice.py" "$work/run" 2>/dev/null)
printf '%s\n' "$seen"
expected='first step: 0
failed: preempted
first step: 2
first step: 0'
[ "$seen" = "$expected" ] || { echo "CHANGED"; exit 1; }
echo "as described"
