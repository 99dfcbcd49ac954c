"""Write what version 0 leaves behind: a checkpoint in the middle of a run, a configuration, and how both runs end.

    python tests/kept/make.py FOLDER

The files in v0/ were made so by lightning_sparse 0.1.0 as it was before its first release, with the versions that
expected.json names. They are never made again: a version that can't read them breaks somebody's project, and is what
has to be mended. Files of a later version go to a folder of their own, with a run of their own beside version_0.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from version_0 import SAVED_AT, ending, run, run_of_config

from lightning_sparse import __version__

# What a user would have written; the file that is kept is what `lightning-sparse fit` wrote of it, with every option.
OPTIONS = """\
seed_everything: 7
trainer:
  max_epochs: 3
  accelerator: cpu
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
  logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: logs, name: kept}}
  callbacks:
    - class_path: SparseMomentumCallback
      init_args:
        density: {"*hidden.0*": 0.3, "*": 0.2}
        prune_rate: 0.4
        schedule: linear
        every_n_epochs: 1
        pruning: signed_magnitude
        redistribution: none
        growth: random
        keep_regrown: true
        include: [Linear]
        exclude: ["*output*"]
        minimum: 2
        seed: 3
    - class_path: GradientFlowCallback
      init_args: {spread_over_epochs: 2, orders: [2.0], vanishing: 1.0e-5, name: kept}
    - class_path: ClassSpecializationCallback
      init_args: {layers: Linear, activation: relu, drop_fraction: 0.05}
    - class_path: SparsityPictures
    - class_path: lightning_sparse.callbacks.RandomStateCallback
model:
  class_path: ImageClassifier
  init_args:
    model: {class_path: lightning_sparse.models.MLP, init_args: {in_features: 64, hidden: [24, 16], num_classes: 3}}
    num_classes: 3
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.05, momentum: 0.9}}
    lr_scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 5}}
data:
  class_path: NpzDataModule
  init_args: {path: images.npz, batch_size: 20, val_fraction: 0.2, shuffle_seed: 5, crop_padding: 1, flip: true}
"""


class Saving(Callback):
    """Save after a step, when all other callbacks are done with it.

    Args:
        path: Of the checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Save, if it is time."""
        if trainer.global_step == SAVED_AT:
            trainer.save_checkpoint(self._path)


def main() -> None:
    """Read the option, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    if folder.exists():
        sys.exit(f"Expected a folder that is not there yet; got {folder}. Cure: another one; kept files stay.")
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        expected = {
            "made by": {
                "lightning_sparse": __version__,
                "torch": torch.__version__,
                "lightning": lightning.__version__,
                "jsonargparse": version("jsonargparse"),
            },
            "checkpoint": ending(run(Saving(folder / "checkpoint.ckpt"), folder=Path(temporary))),
        }
    with tempfile.TemporaryDirectory() as temporary:
        options = Path(temporary) / "options.yaml"
        options.write_text(OPTIONS)
        expected["config"] = run_of_config(Path(temporary), options)
        (written,) = Path(temporary).rglob("config.yaml")
        (folder / "config.yaml").write_bytes(written.read_bytes())
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
