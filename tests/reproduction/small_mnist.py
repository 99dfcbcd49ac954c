"""A small MNIST, for runs that are made."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an MNIST of 1,000 and 200 images, each class a bright row of its own."""
    root = tmp_path_factory.mktemp("data")
    source = np.random.default_rng(0)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 1000), ("t10k", 200)):
        labels = source.integers(0, 10, count).astype(np.uint8)
        images = source.integers(0, 90, (count, 28, 28)).astype(np.uint8)
        images[np.arange(count), 2 * labels + 3] = 255
        for kind, array in ((f"{name}-images-idx3-ubyte", images), (f"{name}-labels-idx1-ubyte", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (raw / kind).write_bytes(header + array.tobytes())
            with gzip.open(raw / f"{kind}.gz", "wb") as packed:
                packed.write(header + array.tobytes())
    return root
