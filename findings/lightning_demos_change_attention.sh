#!/usr/bin/env bash
# Lightning 2.6.6: importing `lightning.pytorch.demos.boring_classes`, which tests and bug reports take their modules from.
#
# One would guess: an import of demonstration classes leaves PyTorch's own classes as they are.
# Seen: the package of the demos imports its transformer, too, and that gives torch.nn.MultiheadAttention a public method
# `reset_parameters`, in the whole process. Code that initializes every module having this method (the usual loop over
# `model.modules()`, in studies with several seeds) then resets attention as well, draws more random numbers, and starts
# all later layers from other weights than without the import.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 lightning==2.6.6 numpy==2.4.6

cat >"$work/reset.py" <<'PYTHON'
import sys

import torch
from torch import nn

import lightning.pytorch

if "demos" in sys.argv:
    from lightning.pytorch.demos.boring_classes import BoringModel  # noqa: F401


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2), nn.Linear(8, 3)


model = Small()
torch.manual_seed(0)
reset = [module for module in model.modules() if hasattr(module, "reset_parameters")]
for module in reset:
    module.reset_parameters()
print(*[type(module).__name__ for module in reset])
print(f"{model.head.weight.double().sum():.6f}")
PYTHON

run() { OMP_NUM_THREADS=1 "$work/env/bin/python" "$work/reset.py" "$@" 2>/dev/null; }

plain=$(run plain)
demos=$(run demos)
printf 'without the demos, modules that were reset and the sum of the last weights:\n%s\n\n' "$plain"
printf 'with them:\n%s\n\n' "$demos"
[ "$(head -n 1 <<<"$plain")" = "NonDynamicallyQuantizableLinear Linear" ] || { echo "CHANGED: without the demos"; exit 1; }
[ "$(head -n 1 <<<"$demos")" = "MultiheadAttention NonDynamicallyQuantizableLinear Linear" ] || { echo "CHANGED: with them"; exit 1; }
[ "$(tail -n 1 <<<"$plain")" != "$(tail -n 1 <<<"$demos")" ] || { echo "CHANGED: the weights are the same"; exit 1; }
echo "as described"
