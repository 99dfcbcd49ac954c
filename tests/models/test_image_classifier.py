"""The module trains like a bare loop, and logs exact means over images."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sparse.data import ArrayDataModule, InMemoryLoader
from lightning_sparse.models import ImageClassifier, LeNet300100, image_classifier, paper_sgd
from lightning_sparse.models.num_classes import check_logits

Batch = tuple[Tensor, Tensor]

pytestmark = [
    # Lightning 2.6 uses a spelling of PyTorch's tree utilities that PyTorch 2.15 deprecates.
    # The resumed runs save no checkpoints of their own.
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no .val_dataloader.:UserWarning"),
]
FROZEN = partial(torch.optim.SGD, lr=0.0)


class Batches:
    """12 images in batches of 5, 5 and 2; like a data loader, but always the same."""

    def __init__(self, classes: int = 10) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(12, 1, 2, 2, generator=generator)
        labels = torch.randint(0, classes, (12,), generator=generator)
        self.batches: list[Batch] = list(zip(images.split(5), labels.split(5), strict=True))

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def all(self) -> Batch:
        images, labels = zip(*self.batches, strict=True)
        return torch.cat(images), torch.cat(labels)


def make_model(classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))


def data() -> ArrayDataModule:
    """Return 12 images whose loaders resume where a run stopped."""
    images, labels = Batches().all()
    pixels = images.permute(0, 2, 3, 1).sigmoid()
    return ArrayDataModule(pixels, labels, pixels, labels, batch_size=5, val_fraction=0, num_classes=10)


def make_trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    return Trainer(accelerator="cpu", enable_model_summary=False, **{**quiet, **options})


def metrics_of(trainer: Trainer) -> dict[str, float]:
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def top_k(model: nn.Module, batch: Batch, k: int) -> float:
    images, labels = batch
    return (model(images).topk(k).indices == labels[:, None]).any(dim=1).float().mean().item()


def test_training_equals_a_bare_loop_bit_for_bit() -> None:
    module, bare = ImageClassifier(make_model()), make_model()
    make_trainer(max_epochs=3).fit(module, Batches())
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for _ in range(3):
        for images, labels in Batches():
            optimizer.zero_grad()
            cross_entropy(bare(images), labels).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), bare.parameters(), strict=True))
    assert not torch.equal(bare[1].weight, make_model()[1].weight)


def test_gradients_accumulate_over_batches() -> None:
    module, bare = ImageClassifier(make_model(), partial(torch.optim.SGD, lr=0.1)), make_model()
    make_trainer(accumulate_grad_batches=3).fit(module, Batches())
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1)
    for images, labels in Batches():
        (cross_entropy(bare(images), labels) / 3).backward()
    optimizer.step()
    torch.testing.assert_close(module.model[1].weight, bare[1].weight)


def test_train_loss_is_the_mean_over_images() -> None:
    module, data = ImageClassifier(make_model(), FROZEN), Batches()
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, data)
    images, labels = data.all()
    assert metrics_of(trainer) == {
        "train/loss": pytest.approx(cross_entropy(make_model()(images), labels).item(), rel=1e-6)
    }


class LossRecorder(Callback):
    """Records the loss of every step, as Lightning passes it to callbacks."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].item())


def test_train_loss_is_that_of_the_last_epoch() -> None:
    recorder = LossRecorder()
    trainer = make_trainer(max_epochs=2, callbacks=[recorder])
    trainer.fit(ImageClassifier(make_model()), Batches())
    epochs = torch.tensor(recorder.losses).view(2, 3)
    first, second = (epochs @ torch.tensor([5.0, 5.0, 2.0]) / 12).tolist()
    assert metrics_of(trainer)["train/loss"] == pytest.approx(second, rel=1e-6)
    assert first != pytest.approx(second, rel=1e-3)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_evaluation_reports_means_over_images(stage: str) -> None:
    module, data, model = ImageClassifier(make_model(), FROZEN), Batches(), make_model()
    trainer = make_trainer()
    run = trainer.validate if stage == "val" else trainer.test
    images, labels = data.all()
    expected = {
        f"{stage}/loss": pytest.approx(cross_entropy(model(images), labels).item(), rel=1e-6),
        f"{stage}/accuracy": pytest.approx(top_k(model, data.all(), 1)),
        f"{stage}/accuracy_top5": pytest.approx(top_k(model, data.all(), 5)),
    }
    for _ in range(2):  # the second run does not count the first one in
        run(module, data, verbose=False)
        assert metrics_of(trainer) == expected


def test_fitting_reports_training_and_validation() -> None:
    trainer = make_trainer()
    trainer.fit(ImageClassifier(make_model()), Batches(), Batches())
    assert set(trainer.callback_metrics) == {"train/loss", "val/loss", "val/accuracy", "val/accuracy_top5"}


def test_top_5_is_left_out_when_it_says_nothing() -> None:
    trainer = make_trainer()
    trainer.validate(ImageClassifier(make_model(5), num_classes=5), Batches(5), verbose=False)
    assert set(trainer.callback_metrics) == {"val/loss", "val/accuracy"}


def test_second_guesses_count_for_top_5_only() -> None:
    right = torch.eye(10)[:5]
    second_guess = torch.eye(10)[:5] + 2 * torch.eye(10)[5:]
    logits, labels = torch.cat([right, second_guess]).view(10, 10, 1, 1), torch.arange(5).repeat(2)
    trainer = make_trainer()
    loader = InMemoryLoader(logits, labels, 5, shuffle=False)
    trainer.validate(ImageClassifier(nn.Flatten()), loader, verbose=False)
    metrics = metrics_of(trainer)
    assert (metrics["val/accuracy"], metrics["val/accuracy_top5"]) == (0.5, 1.0)


def test_training_steps_log_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    module = ImageClassifier(make_model())
    monkeypatch.setattr(module, "log", lambda name, value, **options: logged.append(name))
    make_trainer(max_epochs=2).fit(module, Batches())
    assert logged == ["train/loss", "train/loss"]


def test_predictions_are_probabilities() -> None:
    module, data = ImageClassifier(make_model()), Batches()
    predictions = make_trainer().predict(module, data)
    expected = make_model()(data.all()[0]).softmax(dim=1)
    torch.testing.assert_close(torch.cat(predictions), expected)  # type: ignore[arg-type]  # wrong or foreign on purpose


@pytest.mark.parametrize(("interval", "factor"), [("step", 0.5**6), ("epoch", 0.5**2)])
def test_the_schedule_moves_on_with_steps_or_epochs(interval: Any, factor: float) -> None:
    halving = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    module = ImageClassifier(make_model(), lr_scheduler=halving, lr_interval=interval)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, Batches())
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * factor)


def test_a_schedule_can_watch_the_validation_loss() -> None:
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5, threshold=1.0)
    module = ImageClassifier(make_model(), lr_scheduler=plateau, lr_interval="epoch")
    trainer = make_trainer(max_epochs=3)
    trainer.fit(module, Batches(), Batches())
    assert trainer.optimizers[0].param_groups[0]["lr"] < 0.1


def test_the_default_optimizer_is_the_published_one() -> None:
    optimizer = ImageClassifier(make_model()).configure_optimizers()
    settings = {key: optimizer.param_groups[0][key] for key in ("lr", "momentum", "nesterov", "weight_decay")}
    assert type(optimizer) is torch.optim.SGD
    assert settings == {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


def test_the_module_can_be_sent_to_other_processes() -> None:
    copy = pickle.loads(pickle.dumps(ImageClassifier(make_model())))
    assert copy.optimizer is paper_sgd


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of modes of later compilations, which are skipped."""
    modes: list[str] = []
    torch_compile = torch.compile

    def compile_as_written(function: Callable[..., Any], mode: str, dynamic: bool) -> Callable[..., Any]:
        modes.append(mode)
        assert dynamic is False  # else a second size of batch would slow down the first
        return torch_compile(function, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", compile_as_written)
    return modes


def test_a_network_is_compiled_once_with_its_names_and_training_unchanged(compiled: list[str]) -> None:
    plain, module = ImageClassifier(make_model()), ImageClassifier(make_model(), compile_mode="reduce-overhead")
    make_trainer().fit(plain, Batches())
    assert compiled == []
    trainer = make_trainer()
    trainer.fit(module, Batches())
    trainer.test(module, Batches(), verbose=False)
    assert compiled == ["reduce-overhead"]
    assert list(module.state_dict()) == list(plain.state_dict())
    assert all(map(torch.equal, module.parameters(), plain.parameters()))
    assert module.hparams["compile_mode"] == "reduce-overhead"


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="PyTorch before 2.6 compiles for all batches")
@pytest.mark.parametrize(
    ("limits", "expected"),
    [({}, [5, 5, 5, 5]), ({"limit_train_batches": 1}, [5, 5]), ({"limit_train_batches": 2}, [5, 5, 5, 5])],
    ids=["a smaller last one", "one an epoch", "all of one size"],
)
def test_a_network_is_compiled_for_training_batches_of_the_usual_size(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], expected: list[int]
) -> None:
    torch._dynamo.reset()  # type: ignore[no-untyped-call]  # what earlier tests compiled counts towards a limit
    graphs, sizes = [], []
    torch_compile = torch.compile

    def backend(graph: Any, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)

        def run(*values: Tensor) -> Any:
            sizes.extend(len(value) for value in values if value.dim() == 4)
            return graph(*values)

        return run

    monkeypatch.setattr(torch, "compile", lambda f, mode, dynamic: torch_compile(f, backend=backend, dynamic=dynamic))
    module = ImageClassifier(make_model(), compile_mode="default")
    trainer = make_trainer(max_epochs=2, **limits)
    trainer.fit(module, Batches(), Batches())
    trainer.test(module, Batches(), verbose=False)
    trainer.predict(module, Batches())
    assert (sizes, len(graphs)) == (expected, 1)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="PyTorch before 2.6 compiles for all batches")
def test_a_run_resumed_at_a_smaller_last_batch_is_compiled_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()  # type: ignore[no-untyped-call]  # what earlier tests compiled counts towards a limit
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    options = {"max_epochs": 2, "limit_val_batches": 0}
    make_trainer(callbacks=[saver], enable_checkpointing=True, **options).fit(ImageClassifier(make_model()), data())
    sizes: list[int] = []
    torch_compile = torch.compile

    def backend(graph: Any, inputs: list[Tensor]) -> Callable[..., Any]:
        sizes.extend(len(value) for value in inputs if value.dim() == 4)
        return graph

    monkeypatch.setattr(torch, "compile", lambda f, mode, dynamic: torch_compile(f, backend=backend, dynamic=dynamic))
    module = ImageClassifier(make_model(), compile_mode="default")
    make_trainer(**options).fit(module, data(), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert sizes == [5]


def test_a_step_without_a_trainer_needs_none(compiled: list[str]) -> None:
    module = ImageClassifier(make_model(), compile_mode="default")
    for number, batch in enumerate(Batches()):
        assert module.training_step(batch, number).requires_grad


def test_a_copy_in_another_process_is_compiled_there(compiled: list[str]) -> None:
    module = ImageClassifier(make_model(), compile_mode="default")
    make_trainer().fit(module, Batches())
    copy = pickle.loads(pickle.dumps(module))
    make_trainer().predict(copy, Batches())
    assert compiled == ["default", "default"]


def test_a_checkpoint_is_loaded_into_the_module_and_into_the_plain_network(tmp_path: Path) -> None:
    module, path = ImageClassifier(make_model(5), num_classes=5), tmp_path / "run.ckpt"
    trainer = make_trainer()
    trainer.fit(module, Batches(5))
    trainer.save_checkpoint(path)

    loaded = ImageClassifier.load_from_checkpoint(path, model=make_model(5), weights_only=True)
    assert torch.equal(loaded.model[1].weight, module.model[1].weight)
    assert "val/accuracy_top5" not in loaded.val_metrics

    state = torch.load(path, weights_only=True)["state_dict"]
    plain = make_model(5)
    plain.load_state_dict({key.removeprefix("model."): value for key, value in state.items()}, strict=True)
    assert torch.equal(plain[1].weight, module.model[1].weight)


def test_a_name_makes_the_network_with_the_classifiers_classes() -> None:
    module = ImageClassifier("lenet-300-100", num_classes=4, model_options={"in_features": 12, "width": 0.1})
    assert type(module.model) is LeNet300100
    assert [tuple(module.model.get_parameter(f"fc{i}.weight").shape) for i in (1, 2, 3)] == [
        (30, 12),
        (10, 30),
        (4, 10),
    ]
    assert ImageClassifier("resnet-50", model_options={"width": 0.05}).model.fc.out_features == 10
    assert ImageClassifier("torchvision.models.squeezenet1_1").model.num_classes == 10
    assert isinstance(ImageClassifier("torch.nn.Flatten", num_classes=4).model, nn.Flatten)  # has no such option


def test_a_checkpoint_of_a_named_network_needs_no_argument(tmp_path: Path) -> None:
    options = {"hidden": [6, 6], "in_features": 4, "skip": True, "activation": "tanh"}
    module, path = ImageClassifier("mlp", num_classes=5, model_options=options), tmp_path / "run.ckpt"
    trainer = make_trainer()
    trainer.fit(module, Batches(5))
    trainer.save_checkpoint(path)
    loaded = ImageClassifier.load_from_checkpoint(path, weights_only=True)
    images = Batches(5).all()[0]
    assert torch.equal(loaded(images), module(images))
    assert module.hparams["model"] == "mlp"
    assert loaded.hparams == module.hparams


def test_a_module_is_no_hyperparameter() -> None:
    assert "model" not in ImageClassifier(make_model()).hparams


def arrays(classes: int) -> ArrayDataModule:
    """Return 40 images of 2 x 2 pixels in this many classes."""
    images, labels = torch.randint(256, (40, 2, 2), dtype=torch.uint8), torch.arange(40) % classes
    return ArrayDataModule(images, labels, images, labels)


def run(stage: str, module: ImageClassifier, data: Any) -> None:
    options: dict[str, Any] = {"verbose": False} if stage in ("validate", "test") else {}
    getattr(make_trainer(), stage)(module, data, **options)


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_data_of_more_classes_are_refused_before_anything_runs(stage: str) -> None:
    module, before = ImageClassifier(make_model()), make_model()
    with pytest.raises(ValueError, match=r"num_classes=10 classes; got 20 classes from ArrayDataModule\. Cure: .*=20"):
        run(stage, module, arrays(20))
    assert torch.equal(module.model[1].weight, before[1].weight)


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_data_of_fewer_classes_are_warned_of(stage: str) -> None:
    with pytest.warns(UserWarning, match=r"num_classes=10 classes; got 3 classes .*num_classes=3.* 7 of the"):
        run(stage, ImageClassifier(make_model()), arrays(3))


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_data_of_equal_or_unknown_number_of_classes_are_accepted(stage: str) -> None:
    run(stage, ImageClassifier(make_model(20), num_classes=20), arrays(20))
    run(stage, ImageClassifier(make_model(20), num_classes=20), Batches(3))


@pytest.mark.parametrize("classes", [3, 20])
def test_predictions_are_made_for_data_of_any_classes(classes: int) -> None:
    run("predict", ImageClassifier(make_model()), arrays(classes))


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("outputs", [3, 100])
def test_other_numbers_of_outputs_are_refused_at_the_first_batch(outputs: int, stage: str) -> None:
    module, before = ImageClassifier(make_model(outputs)), make_model(outputs)
    expected = (
        rf"num_classes=10 outputs from the network; got {outputs}\. Cure: .* num_classes={outputs}, or .* 10 outputs"
    )
    with pytest.raises(ValueError, match=expected):
        run(stage, module, Batches())
    assert torch.equal(module.model[1].weight, before[1].weight)


@pytest.mark.parametrize(
    ("returned", "error", "got"),
    [
        ((torch.zeros(5, 10), torch.zeros(5, 10)), TypeError, "a tuple"),
        (torch.zeros(5, 10, 1, 1), ValueError, r"\(5, 10, 1, 1\)"),
        (torch.zeros(10), ValueError, r"\(10,\)"),
    ],
    ids=["tuple", "positions", "no_batch"],
)
def test_outputs_that_are_no_batch_of_logits_are_refused(returned: Any, error: type[Exception], got: str) -> None:
    with pytest.raises(error, match=rf"Expected logits of shape \(batch, 10\) .*; got {got}\. Cure: "):
        check_logits(returned, 10)


def test_logits_are_checked_without_synchronizing_and_once_per_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(image_classifier, "check_logits", lambda logits, classes: looked.append(len(logits)))
    make_trainer(max_epochs=2, num_sanity_val_steps=0).fit(ImageClassifier(make_model()), Batches(), Batches())
    assert looked == [5, 5, 2, 5] * 2  # three batches in training, the first one in validation, twice
    check_logits(torch.zeros(5, 10, device="meta"), 10)  # has no values to wait for


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"model": nn.Flatten(), "model_options": {"width": 0.5}}, "with the name of a model only; got .* Flatten"),
        ({"model": "mlp", "model_options": {"hidden": torch.ones(2)}}, "plain Python values; got"),
        ({"model": "mlp", "model_options": {"hidden": [3, nn.ReLU]}}, "plain Python values; got"),
        ({"model": "mlp", "model_options": {1: 2}}, "plain Python values; got"),
        ({"model": "mlp", "model_options": [1]}, "dictionary of plain Python values; got"),
        ({"model": "mlp", "model_options": {"num_classes": 7}}, "one number of classes; got num_classes=10 and 7"),
        ({"model": "mlp", "model_options": {"depth": 7}}, "options of 'mlp' from .*; got"),
        ({"model": "mlpp"}, "the name of a network .*; got 'mlpp'"),
        ({"model": "mlp", "compile_mode": "fast"}, "compile_mode as None or one of 'default', .*; got 'fast'"),
    ],
    ids=str,
)
def test_names_and_options_that_do_not_fit_are_refused(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected .*{expected}.*Cure: "):
        ImageClassifier(**arguments)


def test_a_model_that_is_neither_module_nor_name_is_refused_with_the_names() -> None:
    with pytest.raises(TypeError, match=r"Expected a torch.nn.Module or a name as model; got 3\. Cure: .*wrn-28-2"):
        ImageClassifier(3)  # type: ignore[arg-type]  # wrong on purpose


def test_train_loss_is_that_of_the_uninterrupted_run_after_a_resume(tmp_path: Path) -> None:
    images, labels = Batches().all()
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    whole = make_trainer(max_epochs=2, enable_checkpointing=True, callbacks=[saver])
    whole.fit(ImageClassifier(make_model()), InMemoryLoader(images, labels, 5, shuffle=True))
    for step in range(1, 6):  # three steps an epoch; after the sixth there is nothing to resume
        resumed = make_trainer(max_epochs=2)
        loader = InMemoryLoader(images, labels, 5, shuffle=True)
        resumed.fit(ImageClassifier(make_model()), loader, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert metrics_of(resumed)["train/loss"] == pytest.approx(metrics_of(whole)["train/loss"], rel=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        "{model: lenet-300-100, model_options: {in_features: 64}",
        "{model: LeNet300100, model_options: {in_features: 64}",
        "{model: lightning_sparse.models.LeNet300100, model_options: {in_features: 64}",
        "{model: {class_path: lightning_sparse.models.LeNet300100, init_args: {in_features: 64}}",
        "{model: {class_path: LeNet300100, init_args: {in_features: 64}}",
    ],
)
def test_lightning_cli_trains_from_yaml_and_its_checkpoint_is_complete(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"""
seed_everything: 1
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: {tmp_path}
model: {model},
  optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 0.005}}}},
  lr_scheduler: {{class_path: torch.optim.lr_scheduler.StepLR, init_args: {{step_size: 5}}}}}}
data:
  class_path: lightning_sparse.data.DigitsDataModule
""")
    monkeypatch.setattr("sys.argv", ["test"])
    # Lightning 2.6 calls a method that jsonargparse 4.53 deprecates.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    arguments = ["fit", f"--config={config}"]
    cli = LightningCLI(ImageClassifier, save_config_callback=None, args=arguments)
    assert float(cli.trainer.callback_metrics["val/accuracy"]) > 0.5
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    loaded = ImageClassifier.load_from_checkpoint(checkpoint, weights_only=True)
    assert torch.equal(loaded.model.fc1.weight, cli.model.model.fc1.weight)  # type: ignore[union-attr]  # wrong or foreign on purpose
    configured = loaded.configure_optimizers()
    assert type(configured["optimizer"]) is torch.optim.Adam
    assert configured["optimizer"].defaults["lr"] == 0.005
    assert configured["lr_scheduler"]["scheduler"].step_size == 5
