#!/usr/bin/env bash
# PyTorch 2.13.0: an error that a data set raises in a worker process of a DataLoader reaches the main process as a new
# object, made from one string: type(error)("Caught ... in DataLoader worker process 0. ... traceback").
#
# One would guess: an exception class of one's own arrives as that class, as it does without workers.
# Seen: if its constructor needs more than one argument, a plain RuntimeError arrives instead, so that
# `except OwnError` and `except ValueError` around the loop catch it with num_workers=0 only. With arguments that have
# defaults, the class arrives, but its attributes are those of the defaults.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6

cat >"$work/workers.py" <<'PYTHON'
from torch.utils.data import DataLoader


class TwoNeeded(ValueError):
    def __init__(self, text, file):
        super().__init__(f"{text}: {file}")
        self.file = file


class OneNeeded(ValueError):
    def __init__(self, text, file=None):
        super().__init__(f"{text}: {file}")
        self.file = file


class Broken:
    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.kind("unreadable", "a.png")


if __name__ == "__main__":
    for kind in (TwoNeeded, OneNeeded):
        for workers in (0, 1):
            try:
                list(DataLoader(Broken(kind), num_workers=workers))
            except Exception as error:
                print(kind.__name__, f"workers={workers}", type(error).__name__, getattr(error, "file", "no attribute"))
PYTHON

seen=$("$work/env/bin/python" "$work/workers.py")
printf '%s\n' "$seen"
expected='TwoNeeded workers=0 TwoNeeded a.png
TwoNeeded workers=1 RuntimeError no attribute
OneNeeded workers=0 OneNeeded a.png
OneNeeded workers=1 OneNeeded None'
[ "$seen" = "$expected" ] || { echo "CHANGED"; exit 1; }
echo "as described"
