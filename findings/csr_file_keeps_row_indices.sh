#!/usr/bin/env bash
# PyTorch 2.14.1: a dense matrix in compressed sparse rows, saved with torch.save.
#
# One would guess: per non-zero float32 value 4 bytes, and 8 for its 64-bit column: 12 bytes, beside the starts of rows.
# Seen: 20 bytes. `to_sparse_csr()` finds the non-zero entries as pairs of row and column; `col_indices()` is a view of
# the second half of that memory, and torch.save writes the memory whole, rows included. A clone of the columns is
# saved alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.3.5

cat >"$work/csr.py" <<'PYTHON'
import io
import warnings

import torch

warnings.simplefilter("ignore")  # CSR is in beta


def size(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.tell()


torch.manual_seed(0)
dense = torch.randn(1000, 1000) * (torch.rand(1000, 1000) < 0.1)
csr = dense.to_sparse_csr()
columns, nonzero = csr.col_indices(), csr._nnz()
fresh = torch.sparse_csr_tensor(csr.crow_indices().clone(), columns.clone(), csr.values().clone(), csr.shape)
print("entries in the memory of the columns, per non-zero value:", columns.untyped_storage().nbytes() // 8 / nonzero)
print("bytes per non-zero value as converted:", round(size(csr) / nonzero))
print("bytes per non-zero value with columns that were cloned:", round(size(fresh) / nonzero))
PYTHON

seen=$("$work/env/bin/python" "$work/csr.py")
printf '%s\n' "$seen"
expected='entries in the memory of the columns, per non-zero value: 2.0
bytes per non-zero value as converted: 20
bytes per non-zero value with columns that were cloned: 12'
[ "$seen" = "$expected" ] || { echo "CHANGED"; exit 1; }
echo "as described"
