#!/usr/bin/env bash
# Lightning 2.6.6 comes as two packages, `lightning` and `pytorch-lightning`. Their rank-zero messages go through one
# logger, that of lightning_utilities.core.rank_zero, which each package renames when it is imported.
#
# One would guess: logging.getLogger("lightning.pytorch").setLevel(ERROR) silences a Trainer of lightning.pytorch.
# Seen: it does, until something in the process imports pytorch_lightning as well (a library that supports both names is
# enough). From then on messages of the Trainer of lightning.pytorch come from "pytorch_lightning.utilities.rank_zero",
# and only the level of "pytorch_lightning" silences them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.13.0 lightning==2.6.6 pytorch-lightning==2.6.6 lightning-utilities==0.15.3

cat >"$work/silenced.py" <<'PYTHON'
import logging
import sys

import lightning.pytorch
from lightning_utilities.core import rank_zero

if "both" in sys.argv:
    import pytorch_lightning  # noqa: F401  # as another library may

for name in sys.argv[2:]:
    logging.getLogger(name).setLevel(logging.ERROR)
lightning.pytorch.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
print("logger:", rank_zero.log.name)
PYTHON

run() { "$work/env/bin/python" "$work/silenced.py" "$@" 2>&1; }

one=$(run one lightning.pytorch)
both=$(run both lightning.pytorch)
cured=$(run both lightning.pytorch pytorch_lightning)
printf 'only lightning.pytorch imported, its logger silenced:\n%s\n\n' "$one"
printf 'pytorch_lightning imported, too:\n%s\n\n' "$both"
printf 'both loggers silenced:\n%s\n\n' "$cured"

[ "$one" = "logger: lightning.pytorch.utilities.rank_zero" ] || { echo "CHANGED: silence with one package"; exit 1; }
grep -q "GPU available" <<<"$both" || { echo "CHANGED: the other package's import brings no messages back"; exit 1; }
grep -q "^logger: pytorch_lightning.utilities.rank_zero$" <<<"$both" || { echo "CHANGED: the logger's name"; exit 1; }
[ "$cured" = "logger: pytorch_lightning.utilities.rank_zero" ] || { echo "CHANGED: silence with both levels"; exit 1; }
echo "as described"
