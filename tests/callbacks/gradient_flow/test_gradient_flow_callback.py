"""Gradient flow is measured exactly, in any project, and doesn't change the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger
from tiny_training import BATCHES, At, Batch, ManualModule, ShufflingLoader, TinyModule, fit, saving_at, stream, trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader
from witness import scaled

from lightning_sparse import GradientFlowCallback, SparseMomentumCallback, effective_gradient_flow
from lightning_sparse.analysis import gradient_norm
from lightning_sparse.callbacks.gradient_flow.figures import measures
from lightning_sparse.callbacks.gradient_flow.records import GradientFlowRecord
from lightning_sparse.callbacks.gradient_flow.steps import StepCounter
from lightning_sparse.callbacks.probing.gradients import draw_batches
from lightning_sparse.data import InMemoryLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no .val_dataloader.:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]
WEIGHTS = ("net.0.weight", "net.3.weight")


class Gradients(Callback):
    """Notes the gradients that an optimizer is about to use, and the masks of sparse training."""

    def __init__(self, names: tuple[str, ...] = WEIGHTS) -> None:
        self.names = names
        self.seen: list[tuple[dict[str, Tensor], dict[str, Tensor] | None]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        parameters = dict(pl_module.named_parameters())
        sparse = [each for each in trainer.callbacks if isinstance(each, SparseMomentumCallback)]
        masks = sparse[0].network.masks if sparse and sparse[0].network else None
        self.seen.append(({name: parameters[name].grad.clone() for name in self.names}, masks))


def check(record: GradientFlowRecord, gradients: dict[str, Tensor], masks: dict[str, Tensor] | None) -> None:
    """Compare a record with gradients that were noted."""
    for p in (1, 2):
        assert record.effective[f"l{p}"] == pytest.approx(effective_gradient_flow(gradients, masks, p).item())
        assert record.total[f"l{p}"] == pytest.approx(gradient_norm(gradients, p).item())
        for name, gradient in gradients.items():
            seen = gradient if masks is None else gradient * masks[name]
            assert record.layers[name][f"l{p}"] == pytest.approx(seen.norm(p).item())
            assert record.layers[name]["active"] == (gradient.numel() if masks is None else int(masks[name].sum()))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 1e-3}], ids=str)
def test_every_step_is_measured_after_accumulation_and_before_clipping(options: dict[str, Any], sparse: bool) -> None:
    flow, gradients = GradientFlowCallback(every_n_steps=1), Gradients()
    fit(flow, gradients, *([SparseMomentumCallback(density=0.3)] if sparse else []), **options)
    assert len(flow.history) == len(gradients.seen) > 2
    for record, (noted, masks) in zip(flow.history, gradients.seen, strict=True):
        assert (masks is not None) == sparse
        check(record, noted, masks)


def test_by_default_the_last_step_of_every_epoch_is_measured() -> None:
    flow, every = GradientFlowCallback(), GradientFlowCallback(every_n_steps=1, name="every")
    run = fit(flow, every)
    last = {record.epoch: record for record in every.history}
    assert flow.history == list(last.values())
    assert len(flow.history) == run.max_epochs > 1


def test_every_second_epoch_and_every_third_step_are_measured() -> None:
    flow, steps, every = (
        GradientFlowCallback(every_n_epochs=2),
        GradientFlowCallback(every_n_steps=3, name="third"),
        GradientFlowCallback(every_n_steps=1, name="every"),
    )
    fit(flow, steps, every, max_epochs=4)
    assert [record.epoch for record in flow.history] == [1, 3]
    assert steps.history == every.history[2::3]


def test_the_papers_epochs_are_spread_evenly_first_and_last_included() -> None:
    flow = GradientFlowCallback(spread_over_epochs=3)
    fit(flow, max_epochs=9)
    assert [record.epoch for record in flow.history] == [0, 4, 8]
    averages = flow.summary()
    assert averages["measured"] == 3
    assert averages["gradient_flow/egf_l2"] == pytest.approx(sum(record.effective["l2"] for record in flow.history) / 3)


def test_an_epoch_that_max_steps_cuts_short_is_measured_at_its_last_step() -> None:
    flow, every = GradientFlowCallback(), GradientFlowCallback(every_n_steps=1, name="every")
    fixed = GradientFlowCallback(batches=[next(iter(ShufflingLoader()))], name="fixed")
    fit(flow, every, fixed, max_steps=5)
    assert flow.history[-1] == every.history[-1]
    assert [record.epoch for record in fixed.history] == [0, 1]


def test_epochs_of_a_run_without_an_end_can_not_be_spread() -> None:
    with pytest.raises(ValueError, match=r"known length to spread 11 epochs over; got max_epochs=-1.*Cure"):
        fit(GradientFlowCallback(spread_over_epochs=11), max_epochs=-1)


@pytest.mark.parametrize("batches", [None, 2])
def test_the_run_is_the_same_with_and_without_it(batches: int | None) -> None:
    results = []
    for callbacks in ([], [GradientFlowCallback(every_n_steps=1, batches=batches)]):
        torch.manual_seed(3)
        module = WithNorm()
        trainer(*callbacks, max_epochs=2).fit(module, images())
        results.append((module.state_dict(), torch.get_rng_state(), module.calls))
    (weights, state, calls), (weights_too, state_too, calls_too) = results
    assert all(torch.equal(weights[name], weights_too[name]) for name in weights)
    assert torch.equal(state, state_too)
    assert calls == calls_too


class WithNorm(TinyModule):
    """Has batch norm, dropout, and a counter that a training step changes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
        )
        self.calls = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.calls += 1
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.1, momentum=0.9)


def images() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(6, generator=generator), index % 3) for index in range(24)]
    return DataLoader(pairs, batch_size=4, shuffle=True)  # type: ignore[arg-type]  # a list has all that a loader needs


def test_fixed_batches_stay_the_same_and_give_the_gradient_of_their_mean_loss() -> None:
    inputs, labels = torch.randn(2, 4, 6), torch.tensor([[0, 1, 2, 0], [1, 1, 0, 2]])
    batches = list(zip(inputs, labels, strict=True))
    flow = GradientFlowCallback(batches=batches)
    module = Plain()
    states: list[Any] = []
    note = At("on_train_epoch_end", lambda _, model: states.append({**model.state_dict()}))
    trainer(flow, note, max_epochs=2, limit_train_batches=1).fit(module, images())
    assert len(flow.history) == 2
    copy = Plain()
    copy.load_state_dict(module.state_dict())
    sum(cross_entropy(copy.net(x), y) / 2 for x, y in batches).backward()  # type: ignore[union-attr]  # not 0
    gradients = {f"net.{index}.weight": copy.net[index].weight.grad for index in (1, 3)}
    check(flow.history[-1], gradients, None)  # type: ignore[arg-type]  # they have gradients


class Plain(WithNorm):
    """Has no dropout and no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def test_fixed_batches_are_drawn_by_the_seed_alone_and_do_not_advance_the_loader() -> None:
    histories = []
    for seed, shift in ((0, 0), (0, 5), (1, 0)):
        torch.manual_seed(shift)
        flow = GradientFlowCallback(batches=2, seed=seed)
        module = Plain()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(0.1)
        trainer(flow, max_epochs=1, limit_train_batches=1).fit(module, Frozen(images()))
        histories.append(flow.history[0].effective)
    assert histories[0] == histories[1] != histories[2]


class Frozen(DataLoader[Any]):
    """Returns the same training batches for any global seed."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        super().__init__(loader.dataset, batch_size=4, shuffle=False)


def ours() -> InMemoryLoader:
    generator = torch.Generator().manual_seed(0)
    return InMemoryLoader(torch.randn(24, 1, 2, 3, generator=generator), torch.arange(24) % 3, 4, shuffle=True)


def test_fixed_batches_of_our_loader_are_its_first_ones_and_do_not_advance_it() -> None:
    seen: list[list[str]] = []
    for callbacks in ([GradientFlowCallback(batches=2)], []):
        positions: list[str] = []
        loader = ours()
        note = At("on_train_batch_end", lambda *_, of=loader, to=positions: to.append(str(of.state_dict())))
        trainer(*callbacks, note, max_epochs=2).fit(Plain(), loader)
        seen.append(positions)
    assert seen[0] == seen[1]
    loader = ours()
    first = [labels.tolist() for _, labels in islice(loader, 2)]
    assert [labels.tolist() for _, labels in draw_batches(loader, 2, seed=5)] == first


def test_a_stream_can_not_be_drawn_from() -> None:
    with pytest.raises(TypeError, match=r"data set with indices to draw batches from; got a DataLoader. Cure"):
        fit(GradientFlowCallback(batches=2), loader=stream())


def test_a_loss_function_serves_modules_whose_training_step_returns_none() -> None:
    batches = [next(iter(ShufflingLoader()))]
    flow = GradientFlowCallback(batches=batches, loss=lambda module, batch: module.loss(batch))
    fit(flow, module=ManualModule())
    assert all(record.effective["l2"] > 0 for record in flow.history)
    with pytest.raises(ValueError, match=r"loss function for fixed batches in manual optimization; got none.*Cure"):
        fit(GradientFlowCallback(batches=batches), module=ManualModule())


@pytest.mark.parametrize("every_step", [False, True])
def test_manual_optimization_with_two_optimizers_one_of_which_lightning_does_not_see(every_step: bool) -> None:
    flow = GradientFlowCallback(every_n_steps=1 if every_step else None)
    seen: list[tuple[int, float]] = []

    class Noting(ManualModule):
        def configure_optimizers(self) -> list[Optimizer]:
            optimizers = super().configure_optimizers()
            for index, (optimizer, layer) in enumerate(zip(optimizers, (self.net[0], self.net[3]), strict=True)):
                optimizer.register_step_pre_hook(
                    lambda *_, i=index, owner=layer: seen.append((i, owner.weight.grad.norm().item()))
                )
            return optimizers

    run = fit(flow, module=Noting())
    by_step = [(record.optimizer, record.effective["l2"]) for record in flow.history]
    by_epoch = [(record.epoch, record.optimizer) for record in flow.history]
    steps = [(index, pytest.approx(norm)) for index, norm in seen]
    epochs = [(epoch, index) for epoch in range(run.max_epochs or 0) for index in (0, 1)]
    measured, expected = (by_step, steps) if every_step else (by_epoch, epochs)
    assert measured == expected
    assert {name for record in flow.history for name in record.layers} == set(WEIGHTS)


class ClosureModule(TinyModule):
    """Manual optimization with a closure that computes the gradients inside the step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)


def test_a_closure_in_manual_optimization_is_measured_after_it_has_run() -> None:
    flow, gradients = GradientFlowCallback(every_n_steps=1), Gradients()
    fit(flow, gradients, module=ClosureModule())
    assert len(flow.history) == len(gradients.seen) > 0
    for record, (noted, masks) in zip(flow.history, gradients.seen, strict=True):
        check(record, noted, masks)


@pytest.mark.parametrize("manual", [False, True])
def test_gradients_are_measured_unscaled_and_a_skipped_step_is_flagged(manual: bool) -> None:
    class Overflowing(ManualScaled if manual else TinyModule):  # type: ignore[misc]  # one of two
        def loss(self, batch: Batch) -> Tensor:
            return super().loss(batch) * (torch.inf if batch_number(self) == 1 else 1)

    flow = GradientFlowCallback(every_n_steps=1)
    fit(flow, module=Overflowing(), plugins=scaled(), max_epochs=2)
    assert len(flow.history) == 2 * BATCHES
    finite = [record for record in flow.history if not record.flags]
    flagged = [record for record in flow.history if record.flags]
    assert len(flagged) == 1
    assert set(flagged[0].flags.values()) == {"non-finite"}
    assert 0 < finite[0].total["l2"] < 100  # the scale is 2 ** 16
    assert flow.summary()["non_finite"] == 1
    assert flow.summary()["measured"] == len(flow.history)


def batch_number(module: LightningModule) -> int:
    return int(module.trainer.fit_loop.epoch_loop.total_batch_idx)


class ManualScaled(TinyModule):
    """Manual optimization under a gradient scaler."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


class Pruned(TinyModule):
    """Has a first layer that PyTorch prunes."""

    def __init__(self) -> None:
        super().__init__()
        prune.random_unstructured(self.net[0], "weight", amount=0.5)  # type: ignore[no-untyped-call]  # PyTorch's


def test_masks_of_pytorch_are_used_and_there_is_no_total_where_gradients_come_masked() -> None:
    flow = GradientFlowCallback(every_n_steps=1)
    fixed = GradientFlowCallback(batches=[next(iter(ShufflingLoader()))], name="fixed")
    module = Pruned()
    fit(flow, fixed, module=module)
    size = module.net[0].weight.numel()
    for record in flow.history:
        assert record.layers["net.0.weight"]["active"] == size - round(size * 0.5)
        assert record.total == {}
    assert all(record.total["l1"] > sum(layer["l1"] for layer in record.layers.values()) for record in fixed.history)


def test_zeros_count_as_inactive_weights_on_request_only() -> None:
    def zeroed() -> TinyModule:
        module = TinyModule()
        with torch.no_grad():
            module.net[0].weight[0] = 0
        return module

    def active(**options: Any) -> float:
        flow = GradientFlowCallback(every_n_steps=1, **options)
        fit(flow, module=zeroed(), max_steps=1)
        return flow.history[0].layers["net.0.weight"]["active"]

    size = zeroed().net[0].weight.numel()
    assert (active(), active(masks="zeros")) == (size, size - zeroed().net[0].weight[0].numel())


def test_dense_ignores_the_masks() -> None:
    flow = GradientFlowCallback(every_n_steps=1, masks="dense")
    fit(flow, SparseMomentumCallback(density=0.3))
    for record in flow.history:
        assert record.effective["l1"] == pytest.approx(record.total["l1"] / len(record.layers))


def test_frozen_and_excluded_layers_are_left_out() -> None:
    module = TinyModule()
    module.net[0].weight.requires_grad = False
    flow = GradientFlowCallback()
    fit(flow, module=module)
    assert list(flow.history[0].layers) == ["net.3.weight"]
    flow = GradientFlowCallback(exclude="net.3")
    fit(flow)
    assert list(flow.history[0].layers) == ["net.0.weight"]
    with pytest.raises(ValueError, match=r"trained layer to measure the gradient of; got none from TinyModule"):
        fit(GradientFlowCallback(include="nowhere"))


class Deep(TinyModule):
    """Has sigmoids that let hardly any gradient through."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()) for _ in range(8)]
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), *layers, nn.Linear(8, 3))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.0)


def test_vanishing_layers_are_named_once_in_a_warning_and_always_in_the_record() -> None:
    flow = GradientFlowCallback(every_n_steps=1)
    with pytest.warns(UserWarning, match=r"vanishing gradients in epoch 0, step 0: net.1.weight") as caught:
        trainer(flow, max_epochs=2, limit_train_batches=2).fit(Deep(), images())
    assert sum("vanishing" in str(warning.message) for warning in caught) == 1
    assert all(record.flags["net.1.weight"] == "vanishing" for record in flow.history)
    assert all("net.10.weight" not in record.flags for record in flow.history)
    assert flow.history[-1].metrics(per_layer=False)["gradient_flow/flagged"] >= 1


def test_exploding_layers_are_flagged() -> None:
    flow = GradientFlowCallback(every_n_steps=1, exploding=1e-9)
    with pytest.warns(UserWarning, match="exploding gradients"):
        fit(flow, max_steps=1)
    assert set(flow.history[0].flags.values()) == {"exploding"}
    flow = GradientFlowCallback(every_n_steps=1)
    fit(flow, max_steps=1)
    assert flow.history[0].flags == {}


def test_metrics_are_logged_with_the_numbers_of_the_history(tmp_path: Path) -> None:
    flow = GradientFlowCallback(every_n_steps=2)
    logger = CSVLogger(tmp_path)
    run = fit(flow, logger=logger)
    metrics = run.callback_metrics
    assert metrics["gradient_flow/egf_l2"].item() == pytest.approx(flow.history[-1].effective["l2"])
    assert metrics["gradient_flow/layer_egf_l1/net.3.weight"].item() == pytest.approx(
        flow.history[-1].layers["net.3.weight"]["l1"]
    )
    rows = [row for row in logger.experiment.metrics if "gradient_flow/l1" in row]
    text = (Path(logger.log_dir) / "metrics.csv").read_text()
    assert "gradient_flow/layer_egf_l1/net.0.weight" in text.splitlines()[0]
    written = text.count("\n") - 1 + len(rows)
    assert written >= len(flow.history) > 2


def test_figures_are_sent_at_the_end_on_request(tmp_path: Path) -> None:
    for pictures in (False, True):
        logger = CSVLogger(tmp_path, name=str(pictures))
        fit(GradientFlowCallback(pictures=pictures), logger=logger)
        files = sorted(path.relative_to(tmp_path).parts[2:] for path in tmp_path.glob(f"{pictures}/**/*.png"))
        expected = [("figures", "gradient_flow", name) for name in ("layers.png", "measures.png")]
        assert files == (expected if pictures else [])
    fit(GradientFlowCallback(pictures=True), module=ManualModule(), logger=CSVLogger(tmp_path, name="two"))
    assert len(list(tmp_path.glob("two/**/optimizer_1/*.png"))) == 2


def test_figures_show_the_measurements() -> None:
    flow = GradientFlowCallback()
    fit(flow)
    (axes,) = measures(flow.history).axes
    assert axes.get_xlabel() == "epoch"
    assert [each.get_label() for each in axes.containers] == ["egf_l1", "egf_l2", "l1", "l2"]
    line, *_ = axes.containers[1]
    assert list(line.get_ydata()) == [record.effective["l2"] for record in flow.history]


def test_a_resumed_run_has_the_history_of_an_uninterrupted_one(tmp_path: Path) -> None:
    def callbacks() -> list[Callback]:
        return [
            GradientFlowCallback(every_n_steps=2),
            GradientFlowCallback(spread_over_epochs=2, batches=1, name="fixed"),
            SparseMomentumCallback(density=0.3),
        ]

    def run(*callbacks: Callback, **options: Any) -> None:
        trainer(*callbacks, max_epochs=3).fit(Plain(), ours(), **options)

    whole = callbacks()
    save = At(
        "on_train_batch_end", lambda run, *_: run.save_checkpoint(tmp_path / "8.ckpt") if run.global_step == 8 else None
    )
    run(*whole, save)
    resumed = callbacks()
    run(*resumed, ckpt_path=tmp_path / "8.ckpt", weights_only=True)
    for one, other in zip(whole[:2], resumed[:2], strict=True):
        assert isinstance(one, GradientFlowCallback)
        assert isinstance(other, GradientFlowCallback)
        assert one.history == other.history
        assert len(one.history) > 1


class Rows(Logger):
    """Notes the steps of the metrics that it gets."""

    name, version = "rows", "0"

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int | None] = []

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Not noted."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.steps += [step] * ("gradient_flow/egf_l2" in metrics)


def test_a_resumed_run_logs_no_measurement_twice(tmp_path: Path) -> None:
    whole, rest = Rows(), Rows()
    fit(GradientFlowCallback(every_n_steps=1), saving_at(5, tmp_path / "5.ckpt"), logger=whole)
    fit(GradientFlowCallback(every_n_steps=1), logger=rest, ckpt_path=str(tmp_path / "5.ckpt"))
    assert whole.steps == list(range(9))
    assert rest.steps == list(range(5, 9))


def test_a_step_is_counted_once_whichever_hook_announces_it_first() -> None:
    steps = StepCounter()
    assert steps.begin(0, "trainer") == "new"
    assert steps.begin(0, "optimizer") == "unchanged"
    steps.end(0)
    assert steps.begin(0, "optimizer") == "new"
    assert steps.begin(0, "trainer") == "repeated"
    steps.end(0)
    assert steps.begin(0, "optimizer") == "new"  # a raw step after one of the Trainer's
    steps.end(0)
    assert [steps.begin(0, "trainer"), steps.begin(0, "trainer")] == ["new", "repeated"]  # closures of one step
    steps = steps.resumed(may_skip=True)
    assert [steps.begin(0, "trainer"), steps.begin(0, "trainer")] == ["new", "new"]  # of which a scaler skipped one
    assert steps.begin(1, "optimizer") == "new"
    assert (steps.counts, steps.most) == ({0: 6, 1: 1}, 6)
    assert [steps.begin(2, "trainer", batch) for batch in (0, 0, 1)] == ["new", "repeated", "new"]


def test_a_second_fit_starts_with_an_empty_history_and_an_evaluation_changes_nothing(tmp_path: Path) -> None:
    flow = GradientFlowCallback()
    module = TinyModule()
    fit(flow, saving_at(4, tmp_path / "early.ckpt"), module=module)
    history = flow.history
    trainer(flow).validate(module, ShufflingLoader(), ckpt_path=tmp_path / "early.ckpt", verbose=False)
    assert flow.history == history
    fit(flow)
    assert len(flow.history) == len(history)


def test_damaged_and_foreign_states_are_refused(tmp_path: Path) -> None:
    flow = GradientFlowCallback()
    states: list[dict[str, Any]] = []
    fit(flow, At("on_train_end", lambda *_: states.append(flow.state_dict())))
    state = states[0]
    other = GradientFlowCallback(orders=[1])
    other.setup(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), TinyModule(), "fit")
    with pytest.raises(ValueError, match=r"numbers of measured gradients; got .* Cure"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"checksum.*Cure"):
        other.load_state_dict({**state, "probed": 7})


@pytest.mark.parametrize("wrap", [partial(torch.compile, backend="eager"), torch.nn.DataParallel])
def test_wrapped_layers_are_measured_under_their_plain_names(wrap: Callable[[Any], Any]) -> None:
    module = TinyModule()
    module.net = wrap(module.net)  # it stands in for it
    flow, every = GradientFlowCallback(every_n_steps=1), SparseMomentumCallback(density=0.3)
    fit(flow, every, module=module)
    assert all(set(record.layers) == set(WEIGHTS) for record in flow.history)
    assert all(record.layers["net.0.weight"]["active"] < 40 for record in flow.history)


def test_hooks_of_optimizers_are_gone_after_training_and_after_an_error() -> None:
    for stop in (False, True):
        flow, module = GradientFlowCallback(every_n_steps=1), ManualModule()

        def fail(*_: Any, stop: bool = stop) -> None:
            if stop:
                raise RuntimeError("stop")

        run = trainer(flow, At("on_train_batch_end", fail))
        try:
            run.fit(module, ShufflingLoader())
        except RuntimeError:
            assert stop
        for optimizer in run.optimizers or run.strategy.optimizers:
            assert not optimizer._optimizer_step_pre_hooks
            assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 1, "every_n_epochs": 1}, r"one of every_n_steps, every_n_epochs.*Cure"),
        ({"every_n_steps": 0}, r"at least 1, an integer; got 0. Cure"),
        ({"every_n_epochs": True}, r"at least 1, an integer; got True. Cure"),
        ({"spread_over_epochs": 1.5}, r"at least 1, an integer; got 1.5. Cure"),
        ({"orders": []}, r"at least one order; got none. Cure"),
        ({"orders": [0.5]}, r"1 <= p <= inf; got 0.5. Cure"),
        ({"masks": "ours"}, r"'auto', 'zeros' or 'dense'; got 'ours'. Cure"),
        ({"normalize": "layer"}, r"None or 'active'; got 'layer'. Cure"),
        ({"batches": 0}, r"at least one batch; got 0. Cure"),
        ({"batches": []}, r"at least one batch; got \[\]. Cure"),
        ({"vanishing": -1.0}, r"vanishing >= 0; got -1.0. Cure"),
        ({"exploding": float("nan")}, r"exploding >= 0; got nan. Cure"),
        ({"include": []}, r"at least one pattern to include; got none. Cure"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientFlowCallback(**options)
