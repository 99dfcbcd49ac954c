"""MNIST from real IDX files, written here, and scikit-learn's digits."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_sparse.data import DigitsDataModule, InMemoryLoader, MNISTDataModule

TRAIN, TEST = 30, 10


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of LeCun's files: zero, zero, 8 for unsigned bytes, number of dimensions, sizes, bytes."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist_dir(tmp_path: Path) -> Path:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return tmp_path


def test_mnist_is_read_from_its_files(mnist_dir: Path) -> None:
    module = MNISTDataModule(mnist_dir, download=False, val_fraction=0.2)
    module.prepare_data()
    module.setup()
    train, val, test = module.train_dataloader(), module.val_dataloader(), module.test_dataloader()
    assert isinstance(val, InMemoryLoader)
    assert [len(loader.images) for loader in (train, val, test)] == [24, 6, 10]
    images, labels = next(iter(test))
    assert images.shape == (TEST, 1, 28, 28)
    assert labels.tolist() == list(range(10))


def test_mnist_is_normalized_with_the_customary_statistics(mnist_dir: Path) -> None:
    module = MNISTDataModule(mnist_dir, download=False)
    module.setup()
    stored = np.random.default_rng(0)
    stored.integers(0, 256, (TRAIN, 28, 28))  # comes first in the fixture
    expected = (stored.integers(0, 256, (TEST, 28, 28)) / 255 - 0.1307) / 0.3081
    images, _ = next(iter(module.test_dataloader()))
    np.testing.assert_allclose(images[:, 0].numpy(), expected, atol=1e-5)


def test_mnist_files_that_are_there_are_not_downloaded(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("tried to download")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    MNISTDataModule(mnist_dir, download=True).prepare_data()


def test_missing_mnist_files_are_downloaded_if_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[str] = []
    monkeypatch.setattr(
        "torchvision.datasets.mnist.download_and_extract_archive",
        lambda url, download_root, filename, md5: requested.append(filename),
    )
    with pytest.raises(RuntimeError):  # the replaced download leaves nothing to read
        MNISTDataModule(tmp_path, download=True).prepare_data()
    assert "train-images-idx3-ubyte.gz" in requested


def test_missing_mnist_files_are_reported_with_the_cure(tmp_path: Path) -> None:
    module = MNISTDataModule(tmp_path, download=False)
    module.prepare_data()
    with pytest.raises(FileNotFoundError, match="download=True"):
        module.setup()


def test_digits_are_split_into_three() -> None:
    module = DigitsDataModule(test_fraction=0.2, val_fraction=0.1)
    module.setup()
    val = module.val_dataloader()
    assert isinstance(val, InMemoryLoader)
    sizes = [len(loader.images) for loader in (module.train_dataloader(), val, module.test_dataloader())]
    assert sizes == [1293, 144, 360]


def test_digits_test_images_are_fixed_and_of_all_classes_alike() -> None:
    tests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the state that scikit-learn would use
        module = DigitsDataModule(split_seed=seed, mean=[0.0], std=[1.0])
        module.setup()
        tests.append(next(iter(module.test_dataloader())))
    assert torch.equal(tests[0][0], tests[1][0])
    counts = torch.bincount(tests[0][1])
    assert counts.max() - counts.min() <= 3


def test_digits_white_is_one() -> None:
    module = DigitsDataModule(mean=[0.0], std=[1.0])
    module.setup()
    images, _ = next(iter(module.test_dataloader()))
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_test_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="test_fraction"):
        DigitsDataModule(test_fraction=fraction)
