"""Images in folders: read as torchvision reads them, resumed exactly, and refused where folders or files are wrong."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from PIL import Image
from torch import Tensor, nn
from torchvision import datasets, transforms

from lightning_sparse.data import ImageFileLoader, ImageFiles, ImageFolderDataModule, ImageNetDataModule

# Python 3.12 doubts workers that are forked in a process with threads, as PyTorch's are.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Batches = list[tuple[Tensor, Tensor]]


def write_image(path: Path, seed: int, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write 11 training and 5 validation images of three classes, in three formats and two modes."""
    for number in range(11):
        write_image(tmp_path / "train" / "cab"[number % 3] / f"{number}.{('png', 'jpg', 'bmp')[number % 2]}", number)
    for number in range(5):
        write_image(tmp_path / "val" / "ab"[number % 2] / f"{number}.png", 100 + number)
    Image.new("L", (9, 9), 50).save(tmp_path / "val" / "a" / "grey.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    return tmp_path


def ready(root: Path, **options: Any) -> ImageFolderDataModule:
    options = {"batch_size": 3, "eval_batch_size": 4, "image_size": 8, "resize": 9, "num_workers": 0, **options}
    module = ImageFolderDataModule(root, **options)
    module.prepare_data()
    module.setup()
    return module


def same(first: Batches, second: Batches) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in pairs)


def test_validation_images_go_through_the_customary_pipeline_in_order(root: Path) -> None:
    steps = transforms.Resize(9), transforms.CenterCrop(8), transforms.ToTensor(), transforms.Normalize(MEAN, STD)
    expected = datasets.ImageFolder(root / "val", transforms.Compose(steps))
    module = ready(root)
    for loader in (module.val_dataloader(), module.test_dataloader(), module.predict_dataloader()):
        images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert torch.equal(images, torch.stack([image for image, _ in expected]))
        assert labels.tolist() == [label for _, label in expected]


def test_the_pipeline_is_imagenets_by_default(root: Path) -> None:
    module = ImageFolderDataModule(root)
    train, val = repr(module.train_transform()), repr(module.eval_transform())
    assert all(step in train for step in ("RandomResizedCrop(size=(224, 224)", "RandomHorizontalFlip(p=0.5)"))
    assert "Resize(size=256" in val
    assert "CenterCrop(size=(224, 224))" in val
    for pipeline in (train, val):
        assert f"Normalize(mean={list(MEAN)}, std={list(STD)})" in pipeline


def test_each_training_image_comes_once_per_epoch_in_an_order_of_its_own(root: Path) -> None:
    loader = ready(root).train_dataloader()
    files = loader.files
    loader.files.transform = transforms.Compose([transforms.Resize((2, 2)), transforms.ToTensor()])
    stored = {files[number, 0][0].sum().item() for number in range(11)}
    epochs = [[image.sum().item() for images, _ in loader for image in images] for _ in range(2)]
    assert len(stored) == 11
    assert set(epochs[0]) == set(epochs[1]) == stored
    assert len(epochs[0]) == 11
    assert epochs[0] != epochs[1]


def test_validation_labels_are_the_training_classes_though_some_are_missing(root: Path) -> None:
    (root / "val" / "a" / "grey.png").unlink()
    for path in (root / "val" / "a").iterdir():
        path.unlink()
    (root / "val" / "a").rmdir()
    module = ready(root)
    assert module.val_dataloader().files.classes == ["a", "b", "c"]
    assert torch.cat([labels for _, labels in module.val_dataloader()]).tolist() == [1, 1]


def test_folders_are_counted_as_classes_at_setup(root: Path) -> None:
    assert ImageFolderDataModule(root).num_classes is None
    assert ready(root).num_classes == 3
    assert ImageNetDataModule(root).num_classes == 1000


@pytest.mark.parametrize("dot", [".", ""])
def test_files_and_folders_that_begin_with_a_dot_are_neither_classes_nor_images(dot: str, root: Path) -> None:
    before = {split: [path for path, _ in ready(root)._files[split].samples] for split in ("train", "val")}
    for folder in (root / "train", root / "val"):
        write_image(folder / f"{dot}checkpoints" / "0.png", 0)  # a class, as notebooks make one
        write_image(folder / "a" / f"{dot}checkpoints" / "0.png", 0)
        (folder / "a" / f"{dot}_0.png").write_bytes(b"AppleDouble")
    module = ready(root)
    added = {split: len(module._files[split]) - len(paths) for split, paths in before.items()}
    assert module.num_classes == (3 if dot else 4)
    assert added == dict.fromkeys(before, 0 if dot else 3)


def test_a_folder_below_a_hidden_one_is_read(root: Path) -> None:
    module = ready(root.rename(root.with_name(".cache")))
    assert len(module._files["train"]) == 11


def test_a_test_folder_of_its_own_is_read(root: Path) -> None:
    write_image(root / "exam" / "c" / "1.png", 7)
    module = ready(root, test_folder="exam")
    assert [labels.tolist() for _, labels in module.test_dataloader()] == [[2]]
    assert sum(len(labels) for _, labels in module.val_dataloader()) == 6


def test_workers_read_what_one_process_reads_in_every_epoch(root: Path) -> None:
    alone, helped = (ready(root, num_workers=workers, shuffle_seed=1).train_dataloader() for workers in (0, 2))
    epochs = [list(alone) for _ in range(3)]
    assert same(list(helped), epochs[0])
    iterator = iter(helped)  # left early, with batches on their way
    assert same([next(iterator)], epochs[1][:1])
    assert same(list(helped), epochs[2])
    assert not same(epochs[0], epochs[1])


def test_a_trainer_stops_the_workers_and_they_start_again_when_needed(root: Path) -> None:
    loader = ready(root, num_workers=1).val_dataloader()
    epoch = list(loader)
    assert loader._iterator is not None
    CombinedLoader(loader).reset()  # what a Trainer does at the end of a run
    assert loader._iterator is None
    assert same(list(loader), epoch)


def test_reading_neither_uses_nor_changes_the_global_random_state(root: Path) -> None:
    epochs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        epochs.append(list(ready(root, shuffle_seed=5).train_dataloader()))
        assert torch.equal(torch.get_rng_state(), before)
    assert same(*epochs)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", range(1, 5))
def test_resuming_anywhere_equals_never_stopping(stop: int, workers: int, root: Path) -> None:
    whole = ready(root, shuffle_seed=1).train_dataloader()
    expected = [list(whole) for _ in range(3)]
    stopped = ready(root, shuffle_seed=1, num_workers=workers).train_dataloader()
    list(stopped)
    iterator = iter(stopped)
    for _ in range(stop):
        next(iterator)
    resumed = ready(root, shuffle_seed=2, num_workers=workers).train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    following = expected[1][stop:] or expected[2]
    assert same(list(resumed), following)


def test_plain_training_images_go_through_the_validation_pipeline_in_order(root: Path) -> None:
    module = ready(root, batch_size=5)
    files = module.train_dataloader().files
    pipeline = module.eval_transform()
    expected = [pipeline(Image.open(path).convert("RGB")) for path, _ in files.samples]
    for _ in range(2):
        batches = list(module.plain_dataloader())
        assert torch.equal(torch.cat([images for images, _ in batches]), torch.stack(expected))
        assert torch.cat([labels for _, labels in batches]).tolist() == [label for _, label in files.samples]
    assert same(list(module.plain_dataloader("val")), list(module.val_dataloader()))
    with pytest.raises(ValueError, match="Expected a split from train, val, test; got 'overfit'"):
        module.plain_dataloader("overfit")
    with pytest.raises(RuntimeError, match="before setup"):
        ImageFolderDataModule(root).plain_dataloader()


def test_processes_share_an_epoch_and_augment_by_their_own_seeds(root: Path) -> None:
    files = ready(root).train_dataloader().files
    shares = [list(ImageFileLoader(files, 3, shuffle=True, seed=1, rank=rank, world_size=2)) for rank in range(2)]
    labels = torch.cat([labels for share in shares for _, labels in share])
    assert [len(share) for share in shares] == [2, 2]
    assert len(labels) == 12  # one image comes twice
    assert set(labels.tolist()) == {0, 1, 2}
    assert not torch.equal(shares[0][0][0], shares[1][0][0])


class Learner(LightningModule):
    """Learns a little from images, and records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 3)
        self.seen: Batches = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch)
        return nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(
    root: Path, seed: int, saver: ModelCheckpoint | None = None, path: Path | None = None, **options: Any
) -> Learner:
    torch.manual_seed(seed)
    module = Learner()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    callbacks = [] if saver is None else [saver]
    trainer = Trainer(
        callbacks=callbacks, enable_checkpointing=saver is not None, **{**quiet, "max_epochs": 2, **options}
    )
    data = ImageFolderDataModule(root, batch_size=3, image_size=8, resize=9, num_workers=0)
    trainer.fit(module, data, ckpt_path=path)
    return module


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning")
def test_a_run_that_lightning_resumes_at_any_step_equals_the_uninterrupted_one(root: Path, tmp_path: Path) -> None:
    whole = fit(root, 1, ModelCheckpoint(tmp_path / "saved", "{step}", save_top_k=-1, every_n_train_steps=1))
    paths = sorted((tmp_path / "saved").glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    assert len(whole.seen) == len(paths) == 8
    for steps, path in enumerate(paths, start=1):
        resumed = fit(root, 2, path=path)
        assert same(resumed.seen, whole.seen[steps:])
        assert torch.equal(resumed.layer.weight, whole.layer.weight)


@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning")
def test_overfitting_sees_the_same_images_in_every_epoch(root: Path) -> None:
    seen = fit(root, 1, overfit_batches=2).seen
    assert len(seen) == 4
    assert same(seen[:2], seen[2:])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "truncated"])
def test_a_damaged_image_is_named_with_the_cure(content: bytes | None, workers: int, root: Path) -> None:
    path = root / "train" / "a" / "broken.jpg"
    write_image(path, 0, (64, 64))
    path.write_bytes(path.read_bytes()[:1500] if content is None else content)
    loader = ready(root, num_workers=workers).train_dataloader()
    with pytest.raises(ValueError, match=r"(?s)Expected an intact image; got .*broken\.jpg.*Cure: replace"):
        list(loader)
    CombinedLoader(loader).reset()  # stops the workers, as a Trainer does


DEEP = np.arange(100, dtype=np.uint16).reshape(10, 10) * 600


def write_deep_pgm(path: Path, pixels: np.ndarray) -> None:
    path.write_bytes(b"P5 %d %d 65535\n" % pixels.shape + pixels.astype(">u2").tobytes())


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("grey.png", lambda path: Image.fromarray(DEEP).save(path)),
        ("grey.tif", lambda path: Image.fromarray(DEEP).save(path)),
        ("grey.pgm", lambda path: write_deep_pgm(path, DEEP)),
    ],
)
def test_images_of_16_bits_keep_their_greys(name: str, write: Any, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / name)
    image, _ = ImageFiles(tmp_path, ["a"], transforms.ToTensor())[0, 0]
    expected = torch.from_numpy(DEEP / 65535).float().expand(3, 10, 10)
    torch.testing.assert_close(image, expected, atol=0.5 / 255 + 1e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "'I'"), (np.float32, "'F'")])
def test_images_whose_white_is_not_known_are_refused_by_name(dtype: Any, mode: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(DEEP.astype(dtype)).save(tmp_path / "a" / "deep.tif")
    files = ImageFiles(tmp_path, ["a"], transforms.ToTensor())
    with pytest.raises(
        ValueError, match=rf"^Expected .*16 bits a channel; got .*deep\.tif, of .*mode {mode}.*Cure: save"
    ):
        files[0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_other_images_are_converted_by_pillow(mode: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / ("image.tif" if mode == "CMYK" else "image.png")
    Image.fromarray((DEEP // 300).astype(np.uint8)).convert("RGB").convert(mode).save(path)
    image, _ = ImageFiles(tmp_path, ["a"], transforms.ToTensor())[0, 0]
    with Image.open(path) as opened:
        assert torch.equal(image, transforms.ToTensor()(opened.convert("RGB")))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda root: (root / "train").rename(root / "training"),
            FileNotFoundError,
            r"folder .*train .*got none.*data_dir",
        ),
        (lambda root: (root / "val").rename(root / "value"), FileNotFoundError, r"folder .*val .*got none.*data_dir"),
        (
            lambda root: (root / "val" / "b").rename(root / "val" / "d"),
            ValueError,
            r"in .*val; got unknown ones: d\.",
        ),
        (lambda root: (root / "train" / "e").mkdir(), ValueError, r"every class in .*train; got none of e\."),
        (lambda root: [path.unlink() for path in root.glob("val/*/*.png")], ValueError, r"folders of .*val; got none"),
        (lambda root: flatten(root / "val"), ValueError, r"class in .*val; got 6 files and no folder.*Cure: move"),
    ],
    ids=["no_train", "no_val", "unknown_class", "empty_class", "no_images", "unsorted_images"],
)
def test_folders_that_do_not_fit_are_refused_at_setup(
    change: Any, error: type[Exception], message: str, root: Path
) -> None:
    change(root)
    with pytest.raises(error, match=rf"(?s)Expected .*{message}"):
        ready(root)


def flatten(folder: Path) -> None:
    for path in list(folder.glob("*/*")):
        path.rename(folder / path.name)
    for path in folder.iterdir():
        if path.is_dir():
            path.rmdir()


def test_a_missing_test_folder_is_refused(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="exam"):
        ready(root, test_folder="exam")


def test_imagenet_without_its_thousand_classes_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"1000 class folders.*train; got 3\. Cure: .*ImageFolderDataModule"):
        ImageNetDataModule(root).setup()


def test_imagenet_with_all_its_classes_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageNetDataModule, "num_classes", 2)
    for part in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            write_image(tmp_path / part / name / "1.JPEG", 1)
    module = ImageNetDataModule(tmp_path, num_workers=0)
    module.setup()
    images, labels = next(iter(module.train_dataloader()))
    assert images.shape == (2, 3, 224, 224)
    assert sorted(labels.tolist()) == [0, 1]


def test_batches_before_setup_are_refused(root: Path) -> None:
    with pytest.raises(RuntimeError, match="before setup"):
        ImageFolderDataModule(root).train_dataloader()


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"num_workers": -1},
        {"num_workers": 1.5},
        {"num_workers": True},
        {"image_size": True},
        {"batch_size": True},
        {"image_size": 0},
        {"image_size": 300},
        {"mean": [0.5]},
        {"mean": [0.5, 0.5], "std": [1.0, 1.0]},
        {"shuffle_seed": "1"},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Expected .* got"):
        ImageFolderDataModule("somewhere", **options)


def test_files_can_be_sent_to_workers_that_are_not_forked(root: Path) -> None:
    files = ready(root).train_dataloader().files
    sent = pickle.loads(pickle.dumps(files))
    assert torch.equal(sent[3, 1][0], files[3, 1][0])


def test_an_image_is_a_function_of_its_number_and_seed(root: Path) -> None:
    augmented = transforms.Compose([transforms.RandomResizedCrop(6), transforms.ToTensor()])
    files = ImageFiles(root / "train", ["a", "b", "c"], augmented)
    assert torch.equal(files[0, 1][0], files[0, 1][0])
    assert not torch.equal(files[0, 1][0], files[0, 2][0])
