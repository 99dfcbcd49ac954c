"""Class specialization as a metric of torchmetrics: exact sums, no wait for the device, merged over processes."""

from __future__ import annotations

import io
import pickle
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from topology.pretend_device import DEVICE, DeviceTensor, PretendDevice
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lightning_sparse import ClassSpecialization
from lightning_sparse.analysis import class_specialization as module
from lightning_sparse.analysis.class_specialization import class_activity, image_activity, specialization_of

CLASSES = 3
TABLES = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 5)), elements=st.floats(0, 1e6))


def batch(images: int = 12, channels: int = 5, seed: int = 0, size: tuple[int, ...] = (4, 3)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, channels, *size, generator=generator)
    return features, torch.randint(CLASSES, (images,), generator=generator)


def measured(*batches: tuple[Tensor, Tensor], **options: Any) -> dict[str, Tensor]:
    metric = ClassSpecialization(**{"num_classes": CLASSES, **options})
    for features, labels in batches:
        metric.update(features, labels)
    return metric.compute()


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], **tolerance: float) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], equal_nan=True, **(tolerance or {"rtol": 0, "atol": 0}))


# Definition


def test_a_channel_is_as_specialized_as_its_largest_proportion() -> None:
    # Channels that are active for all classes alike, for one class only, and for one twice as much as for the others.
    features = torch.tensor([[1.0, 0.0, 1.0], [1.0, -3.0, 1.0], [-1.0, 0.0, 2.0]])
    result = measured((features, torch.tensor([0, 1, 2])))
    assert result["specialization"].tolist() == pytest.approx([1 / 3, 1, 1 / 2])
    assert result["proportions"].tolist() == pytest.approx(np.array([[1 / 3] * 3, [0, 1, 0], [0.25, 0.25, 0.5]]))
    assert result["activity_share"].tolist() == pytest.approx([0.3, 0.3, 0.4])
    assert (result["dead"], result["dropped"]) == (0, 0)


@given(TABLES, st.sampled_from([0.0, 0.05, 0.5]))
def test_proportions_sum_to_one_and_the_largest_lies_between_uniform_and_one(
    table: np.ndarray[Any, Any], drop_fraction: float
) -> None:
    result = specialization_of(torch.from_numpy(table), drop_fraction)
    counted = ~result["specialization"].isnan()
    assert int(counted.sum()) == len(table) - result["dead"] - result["dropped"]
    proportions, values = result["proportions"][counted], result["specialization"][counted]
    torch.testing.assert_close(proportions.sum(1), torch.ones(len(values), dtype=torch.float64))
    assert bool((values >= 1 / table.shape[1] - 1e-12).all())
    assert bool((values <= 1).all())
    assert float(result["activity_share"].sum()) == pytest.approx(1 if table.any() else 0)
    assert result["proportions"][~counted].isnan().all()


@given(TABLES, st.floats(0.01, 100))
def test_neither_the_scale_of_a_channel_nor_the_order_of_the_classes_matters(
    table: np.ndarray[Any, Any], factor: float
) -> None:
    scaled = table * factor
    first, second = (
        specialization_of(torch.from_numpy(each))["specialization"] for each in (table, scaled[:, ::-1].copy())
    )
    alive = table.sum(1) > 1e-300
    torch.testing.assert_close(first[alive], second[alive], rtol=1e-9, atol=0, equal_nan=True)


@pytest.mark.parametrize("size", [(), (4,), (4, 3), (2, 4, 3)], ids=str)
def test_magnitudes_are_summed_over_places_whatever_their_dimensions(size: tuple[int, ...]) -> None:
    features, labels = batch(size=size)
    sums = features.double().abs().reshape(12, 5, -1).sum(2)
    assert_same(measured((features, labels)), measured((sums, labels)), rtol=1e-12, atol=0)
    assert_same(measured((-features, labels)), measured((features, labels)))


def test_how_images_are_batched_and_ordered_does_not_matter() -> None:
    features, labels = batch(images=40)
    order = torch.randperm(40)
    batches = list(zip(features[order].split(7), labels[order].split(7), strict=True))
    assert_same(measured(*batches), measured((features, labels)), rtol=1e-12, atol=0)
    other = measured((features, labels.roll(1)))
    assert not torch.allclose(other["specialization"], measured((features, labels))["specialization"], rtol=1e-6)


def test_large_features_are_summed_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = batch()
    whole = image_activity(features)
    parts: list[int] = []
    split = torch.split

    def counted(tensor: Tensor, size: int) -> Any:
        parts.append(-(-len(tensor) // size))
        return split(tensor, size)

    monkeypatch.setattr(torch, "split", counted)
    for at_once, number in ((1, 12), (5 * 12 * 4, 3), (10**9, 1)):
        monkeypatch.setattr(module, "_AT_ONCE", at_once)
        assert torch.equal(image_activity(features), whole)
        assert parts.pop() == number


def test_features_stay_as_they_are_and_out_of_the_graph() -> None:
    for dtype in (torch.float32, torch.float64):
        features = torch.randn(4, 2, 3, 3, dtype=dtype, requires_grad=True)
        before = features.detach().clone()
        metric = ClassSpecialization(2)
        with torch.enable_grad():
            result = metric(features, torch.tensor([0, 1, 0, 1]))
        assert not any(value.requires_grad for value in (metric.activity, *result.values()))
        assert torch.equal(features, before)


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sums_do_not_overflow_or_stagnate_in_half_precision(dtype: torch.dtype) -> None:
    features = torch.full((2, 1, 200, 200), 3.0, dtype=dtype)
    features[1] *= 2
    metric = ClassSpecialization(2)
    metric.update(features, torch.tensor([0, 1]))
    assert metric.activity.tolist() == [[120_000.0, 240_000.0]]


def test_small_contributions_count_beside_a_large_sum() -> None:
    metric = ClassSpecialization(2)
    metric.update(torch.tensor([[2.0**30], [2.0**30]]), torch.tensor([0, 1]))
    for _ in range(100):
        metric.update(torch.tensor([[1.0]]), torch.tensor([0]))
    assert metric.activity.tolist() == [[2.0**30 + 100, 2.0**30]]  # float32 would still have 2 ** 30
    assert metric.activity.dtype == torch.float64


# Dead and dropped channels


def test_dead_channels_have_no_specialization_and_are_counted() -> None:
    features = torch.tensor([[1.0, 0.0, 3.0], [1.0, 0.0, 0.0]])
    result = measured((features, torch.tensor([0, 1])), num_classes=2)
    assert result["specialization"].tolist() == pytest.approx([0.5, np.nan, 1.0], nan_ok=True)
    assert result["proportions"][1].isnan().all()
    assert result["activity_share"].tolist() == pytest.approx([0.4, 0, 0.6])
    assert (result["dead"], result["dropped"]) == (1, 0)


def test_a_layer_that_is_all_dead_has_shares_of_zero() -> None:
    result = measured((torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])))
    assert result["specialization"].isnan().all()
    assert result["activity_share"].tolist() == [0, 0, 0]
    assert (result["dead"], result["dropped"]) == (3, 0)


@pytest.mark.parametrize(
    ("drop_fraction", "dropped"),
    [(0.0, []), (0.019, []), (0.021, [3]), (0.05, [3]), (0.051, [1, 3]), (0.3, [1, 2, 3]), (0.99, [1, 2, 3])],
)
def test_the_least_active_channels_that_jointly_carry_a_fraction_are_dropped(
    drop_fraction: float, dropped: list[int]
) -> None:
    # Shares of 72, 3, 23 and 2 %, and a dead channel.
    table = torch.tensor([[70.0, 2.0], [1.0, 2.0], [20.0, 3.0], [1.0, 1.0], [0.0, 0.0]])
    result = specialization_of(table.double(), drop_fraction)
    assert result["specialization"].isnan().nonzero().flatten().tolist() == [*dropped, 4]
    assert (result["dead"], result["dropped"]) == (1, len(dropped))
    assert result["activity_share"].tolist() == pytest.approx([0.72, 0.03, 0.23, 0.02, 0])


def test_of_equally_active_channels_the_lower_ones_are_dropped() -> None:
    result = specialization_of(torch.ones(10, 2), drop_fraction=0.25)
    assert result["specialization"].isnan().nonzero().flatten().tolist() == [0, 1]


# Classes of different size


def test_balanced_classes_count_alike_however_many_images_they_have() -> None:
    features = torch.tensor([[1.0], [1.0], [1.0], [2.0]])
    labels = torch.tensor([0, 0, 0, 1])
    assert measured((features, labels), num_classes=2)["proportions"].tolist() == [[0.6, 0.4]]
    balanced = measured((features, labels), num_classes=2, balanced=True)
    assert balanced["proportions"].flatten().tolist() == pytest.approx([1 / 3, 2 / 3])


def test_balancing_changes_nothing_where_classes_have_equal_size() -> None:
    features, _ = batch(images=12)
    labels = torch.arange(12) % CLASSES
    assert_same(measured((features, labels)), measured((features, labels), balanced=True), rtol=1e-12, atol=0)


def test_a_class_without_images_has_no_activity() -> None:
    features = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    for balanced in (False, True):
        result = measured((features, torch.tensor([0, 2])), balanced=balanced)
        assert result["proportions"].tolist() == [[0.25, 0, 0.75], [0.5, 0, 0.5]]


# As a metric


def test_forward_returns_the_batch_and_counts_it_in() -> None:
    first, second = batch(seed=1), batch(images=5, seed=2)
    metric = ClassSpecialization(CLASSES)
    assert_same(metric(*first), measured(first))
    assert_same(metric(*second), measured(second))
    assert_same(metric.compute(), measured(first, second))
    assert not torch.equal(measured(second)["specialization"], metric.compute()["specialization"])


def test_reset_forgets_everything_and_lets_channels_change() -> None:
    metric = ClassSpecialization(CLASSES)
    metric.update(*batch(channels=4))
    metric.reset()
    metric.update(*batch(channels=7))
    assert_same(metric.compute(), measured(batch(channels=7)))


@pytest.mark.skipif(not hasattr(Metric, "merge_state"), reason="torchmetrics before 1.5 has no merge_state")
def test_metrics_are_merged_also_with_one_that_saw_nothing() -> None:
    first, second = batch(seed=1), batch(images=5, seed=2)
    metrics = [ClassSpecialization(CLASSES) for _ in range(3)]
    metrics[0].update(*first)
    metrics[1].update(*second)
    for other in metrics[1:]:
        metrics[0].merge_state(other)
    assert_same(metrics[0].compute(), measured(first, second), rtol=1e-12, atol=0)
    metrics[2].merge_state(metrics[1])
    assert torch.equal(metrics[2].activity, metrics[1].activity)


@pytest.mark.skipif(not hasattr(Metric, "merge_state"), reason="torchmetrics before 1.5 has no merge_state")
@pytest.mark.parametrize("channels", [1, 4])
def test_metrics_of_different_layers_are_not_merged(channels: int) -> None:
    metrics = [ClassSpecialization(CLASSES) for _ in range(2)]
    metrics[0].update(*batch())
    metrics[1].update(*batch(channels=channels))
    before = metrics[0].activity.clone()
    with pytest.raises(ValueError, match="Expected 5 channels and 3 classes, as before; got"):
        metrics[0].merge_state(metrics[1])
    assert torch.equal(metrics[0].activity, before)


def test_a_collection_computes_all_and_shares_their_states() -> None:
    collection = MetricCollection(
        {"text": ClassSpecialization(CLASSES), "code": ClassSpecialization(CLASSES, drop_fraction=0.3)}
    )
    for seed in range(3):
        collection.update(*batch(seed=seed))
    result = collection.compute()
    batches = [batch(seed=seed) for seed in range(3)]
    for name, options in (("text", {}), ("code", {"drop_fraction": 0.3})):
        expected = measured(*batches, **options)
        assert_same({key: result[f"{name}_{key}"] for key in expected}, expected)
    assert len(collection.compute_groups) == 1
    collection.reset()
    assert_same(collection(*batches[0]), collection.compute())


class WithMetric(nn.Module):
    """Has a metric that its forward pass doesn't call."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.layer, self.metric = nn.Linear(3, 2), metric

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features)


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
@pytest.mark.filterwarnings("ignore:This property will be removed in 2.0.0")  # which TorchScript reads
@pytest.mark.parametrize("updated", [False, True])
@pytest.mark.parametrize("kind", [ClassSpecialization, MulticlassAccuracy])
def test_a_module_with_it_can_be_scripted_as_with_a_metric_of_torchmetrics(kind: type[Metric], updated: bool) -> None:
    model = WithMetric(kind(num_classes=2))
    if updated:
        model.metric.update(torch.rand(4, 2), torch.tensor([0, 1, 1, 0]))
    scripted = torch.jit.script(model)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    features = torch.rand(5, 3)
    for copy in (scripted, torch.jit.load(file)):
        assert torch.equal(copy(features), model(features))


@pytest.mark.parametrize("saved", [True, False])
def test_states_are_saved_unless_they_are_not_persistent(saved: bool) -> None:
    metric, file = ClassSpecialization(CLASSES), io.BytesIO()
    metric.update(*batch(seed=1))
    if not saved:
        metric.persistent(False)
    torch.save(metric.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert set(state) == ({"activity", "images", "invalid"} if saved else set())
    resumed = ClassSpecialization(CLASSES)
    resumed.load_state_dict(state)
    resumed.update(*batch(seed=2))
    assert_same(resumed.compute(), measured(batch(seed=1), batch(seed=2)) if saved else measured(batch(seed=2)))


def test_a_state_of_other_classes_is_refused() -> None:
    metric, other = ClassSpecialization(CLASSES), ClassSpecialization(CLASSES + 1)
    metric.update(*batch())
    other.load_state_dict(metric.state_dict())
    with pytest.raises(ValueError, match="Expected 5 channels and 3 classes, as before; got 5 and 4"):
        other.update(*batch())
    with pytest.raises(ValueError, match="3 classes, as before; got 5 and 4"):
        other.compute()


def test_copies_and_pickles_accumulate_independently() -> None:
    metric = ClassSpecialization(CLASSES)
    metric.update(*batch(seed=1))
    for copy in (metric.clone(), deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        copy.update(*batch(seed=2))
        assert_same(copy.compute(), measured(batch(seed=1), batch(seed=2)))
    assert_same(metric.compute(), measured(batch(seed=1)))


def test_states_follow_to_a_device_and_stay_in_double_precision() -> None:
    parent = nn.ModuleDict({"metric": ClassSpecialization(CLASSES)})
    metric = parent["metric"]
    assert isinstance(metric, ClassSpecialization)
    parent.half()
    metric.update(*batch())
    assert metric.activity.dtype == torch.float64
    assert_same(metric.compute(), measured(batch()))
    parent.to("meta")
    assert {state.device.type for state in (metric.activity, metric.images, metric.invalid)} == {"meta"}


def test_updates_do_not_wait_for_the_device() -> None:
    features, labels = batch()
    metric = ClassSpecialization(CLASSES)
    for name in ("activity", "images", "invalid"):
        setattr(metric, name, DeviceTensor(getattr(metric, name)))
    with PretendDevice() as device:
        for _ in range(3):
            metric.update(DeviceTensor(features), DeviceTensor(labels))
        assert device.waits.total() == 0
        assert metric.activity.device == DEVICE
        assert torch.equal(metric.activity.cpu(), 3 * class_activity(image_activity(features), labels, CLASSES))
        assert device.waits.total() > 0  # a wait is counted


# Errors


@pytest.mark.parametrize(
    ("features", "labels", "kind", "message"),
    [
        (
            torch.ones(2, 3, dtype=torch.int64),
            torch.tensor([0, 1]),
            TypeError,
            "floating-point features; got torch.int64",
        ),
        (torch.ones(2, 3, dtype=torch.complex64), torch.tensor([0, 1]), TypeError, "features; got torch.complex64"),
        (np.ones((2, 3)), torch.tensor([0, 1]), TypeError, "floating-point features; got ndarray"),
        (torch.ones(2, 3), torch.tensor([0.0, 1.0]), TypeError, "integer labels; got torch.float32"),
        (torch.ones(2, 3), torch.tensor([False, True]), TypeError, "integer labels; got torch.bool"),
        (torch.ones(2, 3), [0, 1], TypeError, "integer labels; got list"),
        (torch.ones(2), torch.tensor([0, 1]), ValueError, r"shape \(batch, channels, \*spatial\); got \(2,\)"),
        (torch.ones(2, 0, 3), torch.tensor([0, 1]), ValueError, r"got \(2, 0, 3\)"),
        (torch.ones(2, 3), torch.tensor([0, 1, 1]), ValueError, r"one label per image, shape \(2,\); got \(3,\)"),
        (torch.ones(2, 3), torch.tensor([[0, 1], [1, 0]]), ValueError, r"shape \(2,\); got \(2, 2\)"),
        (
            torch.ones(2, 3),
            torch.ones(2, device="meta", dtype=torch.int64),
            ValueError,
            "on one device; got cpu and meta",
        ),
    ],
)
@pytest.mark.parametrize("call", ["update", "forward"])
def test_batches_that_make_no_sense_are_refused_and_change_nothing(
    features: Any, labels: Any, kind: type[Exception], message: str, call: str
) -> None:
    metric = ClassSpecialization(CLASSES)
    metric.update(*batch())
    with pytest.raises(kind, match=f"Expected .*{message}.* Cure: "):
        getattr(metric, call)(features, labels)
    metric.update(*batch(seed=2))
    assert_same(metric.compute(), measured(batch(), batch(seed=2)))


@pytest.mark.parametrize("call", ["update", "forward"])
@pytest.mark.parametrize(("first", "second"), [(5, 4), (1, 5), (5, 1)])
def test_channels_may_not_change(first: int, second: int, call: str) -> None:
    metric = ClassSpecialization(CLASSES)
    metric.update(*batch(channels=first))
    with pytest.raises(
        ValueError, match=f"Expected {first} channels and 3 classes, as before; got {second} and 3.*Cure"
    ):
        getattr(metric, call)(*batch(channels=second))
    assert len(metric.activity) == first


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_reported_by_compute(value: float) -> None:
    metric, (features, labels) = ClassSpecialization(CLASSES), batch()
    features[2, 1, 0, 0] = features[2, 3, 1, 1] = features[7, 0, 0, 0] = value
    metric.update(features, labels)
    metric.update(*batch(seed=1))
    with pytest.raises(ValueError, match=r"Expected finite features; got NaN or infinity for 2 images\. Cure: "):
        metric.compute()
    metric.reset()
    metric.update(*batch())
    assert_same(metric.compute(), measured(batch()))


@pytest.mark.parametrize("label", [-1, CLASSES, 200])
def test_labels_out_of_range_are_reported_by_compute(label: int) -> None:
    metric, (features, labels) = ClassSpecialization(CLASSES), batch()
    labels[3] = label
    metric.update(features, labels)
    with pytest.raises(ValueError, match=r"Expected 0 <= label < 3; got other labels for 1 images\. Cure: "):
        metric.compute()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
def test_labels_may_have_any_integer_type(dtype: torch.dtype) -> None:
    features, labels = batch()
    assert_same(measured((features, labels.to(dtype))), measured((features, labels)))


def test_there_is_nothing_to_compute_before_an_update() -> None:
    metric = ClassSpecialization(CLASSES)
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(RuntimeError, match=r"got none\. Cure: "),
    ):
        metric.compute()


def test_an_empty_batch_makes_channels_known() -> None:
    metric = ClassSpecialization(CLASSES)
    metric.update(torch.empty(0, 4, 2, 2), torch.empty(0, dtype=torch.int64))
    assert metric.compute()["dead"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes >= 2, an integer; got 1"),
        ({"num_classes": True}, "num_classes >= 2, an integer; got True"),
        ({"num_classes": 2.0}, "num_classes >= 2, an integer; got 2.0"),
        ({"num_classes": 2, "drop_fraction": 1.0}, "0 <= drop_fraction < 1; got 1.0"),
        ({"num_classes": 2, "drop_fraction": -0.1}, "drop_fraction < 1; got -0.1"),
        ({"num_classes": 2, "drop_fraction": "5 %"}, "drop_fraction < 1; got '5 %'"),
        ({"num_classes": 2, "drop_fraction": float("nan")}, "drop_fraction < 1; got nan"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Expected .*{message}.* Cure: "):
        ClassSpecialization(**options)
