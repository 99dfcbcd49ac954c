"""Arrays in memory and in .npz files: what is accepted, what is refused, and in which form it arrives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_sparse.data import ArrayDataModule, NpzDataModule

Arrays = dict[str, Any]


def make_arrays(shape: tuple[int, ...] = (6, 5)) -> Arrays:
    """Return 20 training and 10 test images of 10 classes."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (20, *shape), dtype=np.uint8),
        "y_train": np.arange(20) % 10,
        "x_test": rng.integers(0, 256, (10, *shape), dtype=np.uint8),
        "y_test": np.arange(10),
    }


def test_grey_images_get_a_channel() -> None:
    arrays = make_arrays()
    module = ArrayDataModule(**arrays, mean=[0.0], std=[1 / 255])
    module.setup()
    images, labels = next(iter(module.test_dataloader()))
    np.testing.assert_allclose(images.numpy(), arrays["x_test"][:, None], rtol=1e-6)
    assert labels.tolist() == list(range(10))


def test_colours_move_to_the_front() -> None:
    arrays = make_arrays((6, 5, 3))
    module = ArrayDataModule(**arrays, mean=[0.0], std=[1 / 255])
    module.setup()
    images, _ = next(iter(module.test_dataloader()))
    np.testing.assert_allclose(images.numpy(), arrays["x_test"].transpose(0, 3, 1, 2), rtol=1e-6)


def test_float_images_are_stored_unchanged() -> None:
    arrays = make_arrays()
    arrays |= {key: arrays[key] / 255 for key in ("x_train", "x_test")}
    module = ArrayDataModule(**arrays, mean=[0.0], std=[1.0])
    module.setup()
    images, _ = next(iter(module.test_dataloader()))
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images.numpy(), arrays["x_test"][:, None], rtol=1e-6)


def test_tensors_are_accepted_like_arrays() -> None:
    arrays = make_arrays()
    batches = []
    for kind in (np.asarray, torch.as_tensor):
        module = ArrayDataModule(**{key: kind(value) for key, value in arrays.items()})
        module.setup()
        batches.append(next(iter(module.test_dataloader())))
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_tensor_that_the_user_changes_later_changes_no_batch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    arrays = {key: torch.as_tensor(value) for key, value in make_arrays(shape).items()}
    arrays |= {key: arrays[key].to(dtype) for key in ("x_train", "x_test")}
    module = ArrayDataModule(**arrays)
    module.setup()
    images, labels = next(iter(module.test_dataloader()))
    for array in arrays.values():
        array.zero_()
    assert torch.equal(next(iter(module.test_dataloader()))[0], images)
    assert torch.equal(next(iter(module.test_dataloader()))[1], labels)
    assert labels.any()


def test_images_with_a_gradient_history_are_detached() -> None:
    arrays = {key: torch.as_tensor(value) for key, value in make_arrays().items()}
    arrays |= {key: (arrays[key] / 255).requires_grad_() for key in ("x_train", "x_test")}
    module = ArrayDataModule(**arrays)
    module.setup()
    assert not next(iter(module.test_dataloader()))[0].requires_grad


UNIT = {"mean": [0.5], "std": [0.25]}


def floating(low: float, high: float) -> Arrays:
    """Return arrays with pixels from low to high."""
    arrays = make_arrays()
    return arrays | {key: low + (high - low) * (arrays[key] / 255) for key in ("x_train", "x_test")}


@pytest.mark.parametrize("name", ["x_train", "x_test"])
@pytest.mark.parametrize(("low", "high", "got"), [(0, 255, "0 to 25"), (-1, 1, "-1 to"), (-0.42, 2.8, "-0.42 to")])
def test_float_pixels_that_mean_and_std_do_not_belong_to_are_refused(
    low: float, high: float, got: str, name: str
) -> None:
    arrays = floating(0, 1)
    arrays[name] = floating(low, high)[name]
    module = ArrayDataModule(**arrays, **UNIT)
    with pytest.raises(ValueError, match=rf"from 0 to 1 in {name}, .*; got {got}.*Cure: divide them by 255, or save"):
        module.setup()


@pytest.mark.parametrize(
    ("low", "high", "options"),
    [
        (0, 1, UNIT),
        (-0.2, 1.2, UNIT),  # resized with a sharp filter
        (0, 255, {}),  # normalized with their own statistics
        (0, 255, {"mean": [127.0], "std": [80.0]}),
        (0, 255, {"mean": [0.0], "std": [255.0]}),
        (100, 101, {"mean": [100.5], "std": [0.29]}),
        (-2, 3, {"mean": [0.0], "std": [1.0]}),  # normalized already
    ],
    ids=str,
)
def test_float_pixels_in_units_of_their_mean_and_std_are_taken(low: float, high: float, options: Arrays) -> None:
    module = ArrayDataModule(**floating(low, high), **options)
    module.setup()
    assert next(iter(module.test_dataloader()))[0].abs().max() < 5


@pytest.mark.parametrize(
    ("shape", "cure"),
    [
        ((20, 784), r"reshape\(-1, 28, 28\)\."),
        ((20, 3072), r"reshape\(-1, 3, 32, 32\)\.transpose\(0, 2, 3, 1\), if"),
        ((20, 30), r"reshape\(-1, height, width\)"),
        ((20, 1, 28, 28), r"transpose\(0, 2, 3, 1\)"),
        ((0, 28, 28), "the file they were read from"),
        ((20,), "a height and a width"),
    ],
    ids=str,
)
def test_images_of_another_shape_are_refused_with_the_cure_for_it(shape: tuple[int, ...], cure: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected x_train of shape.*; got \({shape[0]},.*Cure: .*{cure}"):
        ArrayDataModule(**{**make_arrays(), "x_train": np.zeros(shape, np.uint8)})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x_train": np.zeros((20, 6, 5), np.int32)}, TypeError, "x_train to be uint8"),
        ({"x_train": np.full((20, 6, 5), "a")}, TypeError, "x_train to be an array of numbers"),
        ({"y_train": np.zeros(20)}, TypeError, "y_train to be integers"),
        ({"x_train": np.zeros((20, 30), np.uint8)}, ValueError, "x_train of shape"),
        ({"x_train": np.zeros((0, 6, 5), np.uint8)}, ValueError, "x_train of shape"),
        ({"x_train": np.zeros((20, 3, 32, 32), np.uint8)}, ValueError, "x_train of shape"),
        ({"x_test": np.zeros((10, 7, 5), np.uint8)}, ValueError, "images of the same shape and dtype"),
        ({"x_test": np.zeros((10, 6, 5), np.float32)}, ValueError, "images of the same shape and dtype"),
        ({"y_train": np.zeros(19, np.int64)}, ValueError, "y_train of shape"),
        ({"y_test": np.zeros((10, 1), np.int64)}, ValueError, "y_test of shape"),
        ({"y_train": np.arange(-1, 19)}, ValueError, "in y_train; got -1 to 18"),
        ({"y_test": np.arange(1, 11)}, ValueError, "in y_test; got 1 to 10"),
        ({"num_classes": 9}, ValueError, "from 0 to 8 in y_train"),
    ],
    ids=[
        "int32_images",
        "text_images",
        "float_labels",
        "flat_images",
        "no_images",
        "channels_first",
        "other_test_size",
        "other_test_dtype",
        "too_few_labels",
        "labels_in_a_column",
        "negative_label",
        "test_label_never_trained",
        "more_labels_than_classes",
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: Arrays, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"(?s)Expected .*{message}.*\. "):
        ArrayDataModule(**{**make_arrays(), **change})


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "images.npz"
    np.savez(path, **make_arrays())
    return path


def test_a_file_gives_the_batches_of_its_arrays(npz: Path) -> None:
    modules = ArrayDataModule(**make_arrays()), ArrayDataModule.from_npz(npz), NpzDataModule(npz)
    images = []
    for module in modules:
        module.setup()
        images.append(next(iter(module.train_dataloader()))[0])
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


def test_options_reach_the_data_module(npz: Path) -> None:
    for module in (ArrayDataModule.from_npz(npz, batch_size=7), NpzDataModule(npz, batch_size=7)):
        module.setup()
        assert module.train_dataloader().batch_size == 7


def test_a_file_is_read_at_setup_and_not_before(tmp_path: Path) -> None:
    module = NpzDataModule(tmp_path / "nowhere.npz")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        module.setup()


def test_a_file_is_found_in_the_home_directory(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(npz.parent))
    NpzDataModule(f"~/{npz.name}").setup()


def test_a_damaged_file_is_refused(npz: Path) -> None:
    npz.write_bytes(npz.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read"):
        ArrayDataModule.from_npz(npz)


def test_a_file_with_damaged_content_is_refused(npz: Path) -> None:
    content = bytearray(npz.read_bytes())
    content[300] ^= 0xFF
    npz.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        ArrayDataModule.from_npz(npz)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "array.npz"
    path.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match="cannot be read"):
        ArrayDataModule.from_npz(path)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match="Expected"):
        ArrayDataModule.from_npz(tmp_path / "array.npy")


def test_a_file_without_an_array_is_refused(npz: Path) -> None:
    arrays = make_arrays()
    del arrays["y_test"]
    np.savez(npz, **arrays)
    with pytest.raises(ValueError, match="without y_test"):
        ArrayDataModule.from_npz(npz)


def test_pickled_objects_are_not_loaded(npz: Path) -> None:
    np.savez(npz, **{**make_arrays(), "y_test": np.array([object()])})
    with pytest.raises(ValueError, match="cannot be read"):
        ArrayDataModule.from_npz(npz)
