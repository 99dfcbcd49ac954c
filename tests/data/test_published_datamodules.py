"""The published data sets, from small files in their real formats, written here, and scikit-learn's digits."""

from __future__ import annotations

import hashlib
import pickle
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from filelock import FileLock

from lightning_sparse.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    InMemoryLoader,
    MNISTDataModule,
)
from lightning_sparse.data.torchvision_sets import TorchvisionDataModule

TRAIN, TEST = 30, 10


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of LeCun's files: zero, zero, 8 for unsigned bytes, number of dimensions, sizes, bytes."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str = "MNIST") -> None:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)


@pytest.fixture
def mnist_dir(tmp_path: Path) -> Path:
    write_mnist(tmp_path)
    return tmp_path


def write_pickle(path: Path, content: dict[str, object]) -> str:
    """Returns the file's checksum."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def pixels(count: int, seed: int) -> np.ndarray:
    """Rows as in CIFAR's files: 1,024 red, then green, then blue pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


@pytest.fixture
def cifar10_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of 10 training images and one of 10 test images, which torchvision accepts as the real ones."""
    folder, names = tmp_path / "cifar-10-batches-py", ("data_batch_1", "data_batch_2", "test_batch")
    sums = [
        [name, write_pickle(folder / name, {"data": pixels(10, seed), "labels": list(range(10))})]
        for seed, name in enumerate(names)
    ]
    meta = write_pickle(folder / "batches.meta", {"label_names": [str(number) for number in range(10)]})
    trust = {"train_list": sums[:2], "test_list": sums[2:]}
    trust["meta"] = {"filename": "batches.meta", "key": "label_names", "md5": meta}  # type: ignore[assignment]  # no list
    for name, value in trust.items():
        monkeypatch.setattr(f"torchvision.datasets.CIFAR10.{name}", value)
    return tmp_path


@pytest.fixture
def cifar100_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cifar-100-python"
    for seed, part in enumerate(("train", "test")):
        content = {"data": pixels(20, seed), "fine_labels": list(range(80, 100)), "coarse_labels": [0] * 20}
        md5 = write_pickle(folder / part, content)
        monkeypatch.setattr(f"torchvision.datasets.CIFAR100.{part}_list", [[part, md5]])
    meta = {"filename": "meta", "key": "fine_label_names"}
    meta["md5"] = write_pickle(folder / "meta", {"fine_label_names": [str(number) for number in range(100)]})
    monkeypatch.setattr("torchvision.datasets.CIFAR100.meta", meta)
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


def slow_download(calls: list[str]) -> Callable[..., None]:
    """A download of MNIST that writes a file bit by bit, as a real one does."""

    def download(url: str, download_root: str, filename: str, md5: str) -> None:
        calls.append(filename)
        source, name = Path(download_root).parents[1] / "source", filename.removesuffix(".gz")
        content = (source / "MNIST" / "raw" / name).read_bytes()
        with (Path(download_root) / name).open("wb", buffering=0) as file:
            for start in range(0, len(content), 5000):
                file.write(content[start : start + 5000])
                time.sleep(0.01)

    return download


def test_two_runs_that_download_to_one_folder_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "source")
    calls: list[str] = []
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", slow_download(calls))
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(MNISTDataModule(tmp_path).prepare_data) for _ in range(3)]:
            future.result()
    assert len(calls) == 4
    MNISTDataModule(tmp_path, download=False).setup()


@pytest.mark.parametrize("failure", [PermissionError(), OSError("read-only"), NotImplementedError()], ids=repr)
def test_files_in_a_folder_that_can_not_be_locked_are_used(
    failure: Exception, mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr("filelock.FileLock.acquire", fail)
    MNISTDataModule(mnist_dir, download=True).prepare_data()


def test_a_failed_download_lets_the_next_one_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    # Older torchvisions say "Error downloading" instead of the reason.
    with pytest.raises(RuntimeError, match=r"(?s)Expected to download MNIST.*Cure: check the network connection"):
        MNISTDataModule(tmp_path).prepare_data()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [".MNIST.lock"]
    with FileLock(tmp_path / ".MNIST.lock", timeout=0):
        pass


def test_missing_mnist_files_are_reported_with_the_cure(tmp_path: Path) -> None:
    module = MNISTDataModule(tmp_path, download=False)
    module.prepare_data()
    with pytest.raises(FileNotFoundError, match="download=True"):
        module.setup()


def test_fashion_mnist_is_read_from_its_own_folder_and_normalized_with_its_own_statistics(tmp_path: Path) -> None:
    write_mnist(tmp_path, "FashionMNIST")
    module = FashionMNISTDataModule(tmp_path, download=False)
    module.setup()
    stored = np.random.default_rng(0)
    stored.integers(0, 256, (TRAIN, 28, 28))  # comes first in the file
    expected = (stored.integers(0, 256, (TEST, 28, 28)) / 255 - 0.2860) / 0.3530
    images, labels = next(iter(module.test_dataloader()))
    np.testing.assert_allclose(images[:, 0].numpy(), expected, atol=1e-5)
    assert labels.tolist() == list(range(10))


def test_cifar10_is_read_from_its_files(cifar10_dir: Path) -> None:
    module = CIFAR10DataModule(cifar10_dir, download=False, val_fraction=0.2)
    module.prepare_data()
    module.setup()
    train, val, test = module.train_dataloader(), module.val_dataloader(), module.test_dataloader()
    assert isinstance(val, InMemoryLoader)
    assert [len(loader.images) for loader in (train, val, test)] == [16, 4, 10]
    images, labels = next(iter(test))
    mean, std = (np.array(c)[:, None, None] for c in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
    np.testing.assert_allclose(images, (pixels(10, 2).reshape(10, 3, 32, 32) / 255 - mean) / std, atol=1e-5)
    assert labels.tolist() == list(range(10))


def test_cifar100_has_the_fine_labels_and_its_own_statistics(cifar100_dir: Path) -> None:
    module = CIFAR100DataModule(cifar100_dir, download=False)
    module.setup()
    images, labels = next(iter(module.test_dataloader()))
    mean, std = (np.array(c)[:, None, None] for c in ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)))
    np.testing.assert_allclose(images, (pixels(20, 1).reshape(20, 3, 32, 32) / 255 - mean) / std, atol=1e-5)
    assert labels.tolist() == list(range(80, 100))


def write_npz(path: Path, shape: tuple[int, ...]) -> Path:
    images, labels = np.zeros((20, *shape), np.uint8), np.arange(20) % 10
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return path


@pytest.mark.parametrize("kind", [CIFAR10DataModule, CIFAR100DataModule])
def test_cifar_is_augmented_and_comes_in_batches_of_128_by_default(
    kind: type[TorchvisionDataModule], tmp_path: Path
) -> None:
    module = kind(write_npz(tmp_path / "cifar.npz", (32, 32, 3)))
    module.prepare_data()
    module.setup()
    train, val = module.train_dataloader(), module.val_dataloader()
    assert isinstance(val, InMemoryLoader)
    assert (train.batch_size, repr(train.augment), val.augment) == (128, "PadCropFlip(padding=4, flip=True)", None)


@pytest.mark.parametrize("kind", [MNISTDataModule, FashionMNISTDataModule])
def test_mnist_is_not_augmented_and_comes_in_batches_of_100_by_default(
    kind: type[TorchvisionDataModule], tmp_path: Path
) -> None:
    module = kind(write_npz(tmp_path / "mnist.npz", (28, 28)))
    module.setup()
    train = module.train_dataloader()
    assert (train.batch_size, train.augment) == (100, None)


def test_an_npz_file_of_another_data_set_is_refused(tmp_path: Path) -> None:
    module = CIFAR10DataModule(write_npz(tmp_path / "mnist.npz", (28, 28)))
    with pytest.raises(ValueError, match=r"CIFAR10, of shape \(32, 32, 3\); got \(28, 28\) in .*mnist.npz.*Cure"):
        module.setup()


@pytest.mark.parametrize(
    ("kind", "shape", "classes"),
    [(MNISTDataModule, (28, 28), 10), (CIFAR10DataModule, (32, 32, 3), 10), (CIFAR100DataModule, (32, 32, 3), 100)],
)
def test_published_data_sets_know_their_classes(
    kind: type[TorchvisionDataModule], shape: tuple[int, ...], classes: int, tmp_path: Path
) -> None:
    module = kind(write_npz(tmp_path / "images.npz", shape))
    module.setup()
    assert module.num_classes == classes


def test_mnist_with_a_channel_is_mnist(tmp_path: Path) -> None:
    batches = []
    for shape in ((28, 28), (28, 28, 1)):
        module = MNISTDataModule(write_npz(tmp_path / "mnist.npz", shape))
        module.setup()
        batches.append(next(iter(module.test_dataloader()))[0])
    assert batches[0].shape == (20, 1, 28, 28)
    assert torch.equal(batches[0], batches[1])


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(MNISTDataModule, (28, 28)), (CIFAR10DataModule, (32, 32, 3)), (CIFAR100DataModule, (32, 32, 3))],
)
def test_bytes_as_floating_point_are_refused_with_the_cure_unless_other_statistics_are_given(
    kind: type[TorchvisionDataModule], shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = write_npz(tmp_path / "images.npz", shape)
    arrays = dict(np.load(path))
    arrays["x_train"], arrays["x_test"] = (np.full((20, *shape), 255.0) for _ in range(2))
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"from 0 to 1 in x_train.*; got 255 to 255\. Cure: divide them by 255, or"):
        kind(path).setup()
    kind(path, mean=[127.0], std=[80.0]).setup()
    np.savez(path, **{**arrays, "x_train": arrays["x_train"] / 255, "x_test": arrays["x_test"] / 255})
    kind(path).setup()


@pytest.mark.parametrize(("kind", "shape"), [(MNISTDataModule, (784,)), (CIFAR10DataModule, (3072,))])
def test_flat_images_are_refused_with_the_reshaping_that_cures_it(
    kind: type[TorchvisionDataModule], shape: tuple[int, ...], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"got \(20, {shape[0]}\)\. Cure: use reshape\(-1, "):
        kind(write_npz(tmp_path / "images.npz", shape)).setup()


def test_files_with_images_of_another_size_are_refused(mnist_dir: Path) -> None:
    for part in ("train", "t10k"):
        count = TRAIN if part == "train" else TEST
        write_idx(mnist_dir / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", np.zeros((count, 20, 20)))
    with pytest.raises(ValueError, match=r"MNIST, of shape \(28, 28\); got \(20, 20\).*Cure"):
        MNISTDataModule(mnist_dir, download=False).setup()


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("size", [0, 3, 10, 300])
def test_a_truncated_mnist_file_is_reported_with_its_folder_and_the_cure(
    size: int, name: str, download: bool, mnist_dir: Path
) -> None:
    path = mnist_dir / "MNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[: min(size, path.stat().st_size - 1)])
    module = MNISTDataModule(mnist_dir, download=download)
    reads = module.prepare_data if download else module.setup
    with pytest.raises(ValueError, match=r"Expected intact files of MNIST in .*raw; got .*Cure: delete this folder"):
        reads()


def test_labels_of_another_number_of_images_are_reported(mnist_dir: Path) -> None:
    write_idx(mnist_dir / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.zeros(TRAIN - 1))
    with pytest.raises(ValueError, match=r"MNIST.*30 images, 29 labels.*Cure"):
        MNISTDataModule(mnist_dir, download=False).setup()


def test_a_damaged_cifar_file_is_named_and_never_unpickled(cifar10_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cifar10_dir / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    monkeypatch.setattr("pickle.load", lambda *args, **kwargs: pytest.fail("unpickled a file it does not know"))
    with pytest.raises(ValueError, match=r"CIFAR10 in .*py; got a wrong checksum of data_batch_2\. Cure: delete"):
        CIFAR10DataModule(cifar10_dir, download=False).setup()


def test_missing_cifar_files_are_named_with_the_cure(cifar100_dir: Path) -> None:
    (cifar100_dir / "cifar-100-python" / "test").unlink()
    with pytest.raises(FileNotFoundError, match=r"got no test\. Cure: set download=True"):
        CIFAR100DataModule(cifar100_dir, download=False).setup()


@pytest.mark.parametrize(
    "failure", [URLError("no route"), OSError("disk full"), IncompleteRead(b""), EOFError()], ids=str
)
@pytest.mark.parametrize(
    ("kind", "module", "file"),
    [
        (MNISTDataModule, "mnist", "train-images-idx3-ubyte"),
        (FashionMNISTDataModule, "mnist", "t10k-labels-idx1-ubyte"),
        (CIFAR10DataModule, "cifar", "data_batch_5"),
        (CIFAR100DataModule, "cifar", "meta"),
    ],
)
def test_a_download_that_fails_says_why_and_where_the_files_belong(
    kind: type[TorchvisionDataModule],
    module: str,
    file: str,
    failure: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", fail)
    with pytest.raises(RuntimeError, match=rf"(?s)Expected to download {kind.dataset}.*got .*Cure: .*network.*{file}"):
        kind(tmp_path).prepare_data()


def test_a_failed_attempt_to_replace_a_damaged_file_is_reported(
    cifar10_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route")

    (cifar10_dir / "cifar-10-batches-py" / "test_batch").write_bytes(b"")
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    with pytest.raises(RuntimeError, match=r"Expected to download CIFAR10.*no route.*or put test_batch into"):
        CIFAR10DataModule(cifar10_dir).prepare_data()


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


@pytest.mark.parametrize("fraction", [0.0, 1.0, True])
def test_a_test_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="test_fraction"):
        DigitsDataModule(test_fraction=fraction)
